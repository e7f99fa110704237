//! How the program stops: open connections may finish within the grace period.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{
    Backend, Builder, Datapath, End, Event, Link, SIGNAL_OPTIONS, TIMEOUT, WHOLE_CHUNKS, both_ways,
    end_of, eventually, is_listening, on_each_datapath, run, with_signals_masked,
};

fn after_sigterm_open_connections_finish_and_no_client_is_accepted(datapath: Datapath) {
    finishes_after(Signal::SIGTERM, datapath);
}

fn sigint_stops_at_once(datapath: Datapath) {
    let builder = Builder::new(datapath).option(&["--grace", "600"]);
    let mut link = Link::with(builder, ([127, 0, 0, 1], 0).into());
    let (mut client, mut server) = link.pair();
    link.balance.signal(Signal::SIGINT);
    link.balance.wait_stopped(Duration::from_secs(5));
    assert_eq!(end_of(&mut client), End::Reset);
    assert_eq!(end_of(&mut server), End::Reset);
}

fn sighup_and_sigusr1_do_no_harm(datapath: Datapath) {
    let link = Link::with(Builder::new(datapath), ([127, 0, 0, 1], 0).into());
    let (client, server) = link.pair();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGPIPE] {
        link.balance.signal(signal);
        both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
    }
    let (client, server) = link.pair();
    both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
}

fn connections_that_outlast_the_grace_are_reset(datapath: Datapath) {
    let builder = Builder::new(datapath).option(&["--grace", "1"]);
    let mut link = Link::with(builder, ([127, 0, 0, 1], 0).into());
    let (mut client, mut server) = link.pair();
    link.balance.signal(Signal::SIGTERM);
    let start = Instant::now();
    let stopped = link.balance.wait_stopped(Duration::from_secs(10));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took <= Duration::from_secs(6), "{took:?}");
    assert_eq!(end_of(&mut client), End::Reset);
    assert_eq!(end_of(&mut server), End::Reset);
    assert_eq!((stopped.sent, stopped.rcvd), (1, 1));
}

fn a_second_signal_stops_at_once(datapath: Datapath) {
    let builder = Builder::new(datapath).option(&["--grace", "600"]);
    let mut link = Link::with(builder, ([127, 0, 0, 1], 0).into());
    let (mut client, server) = link.pair();
    link.balance.signal(Signal::SIGTERM);
    wait_until_refused(link.balance.address());
    both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
    link.balance.signal(Signal::SIGTERM);
    link.balance.wait_stopped(Duration::from_secs(5));
    assert_eq!(end_of(&mut client), End::Reset);
}

on_each_datapath!(
    after_sigterm_open_connections_finish_and_no_client_is_accepted,
    sigint_stops_at_once,
    sighup_and_sigusr1_do_no_harm,
    connections_that_outlast_the_grace_are_reset,
    a_second_signal_stops_at_once,
);

#[test]
fn signals_that_the_parent_masked_still_stop_the_program() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let builder = Builder::auto().wrapped_by(["env"]).wrapped_by(SIGNAL_OPTIONS);
        let mut balance = builder.operand("127.0.0.1:9").start();
        // SIGHUP resolves names again and does not stop the program.
        balance.signal(Signal::SIGHUP);
        balance.signal(Signal::SIGUSR1);
        balance.signal(signal);
        balance.wait_stopped(Duration::from_secs(5));
    }
}

#[test]
fn signals_that_the_parent_masked_do_not_hide_a_failed_start() {
    let (command, _port, _) = Builder::auto().background().operand("a.invalid").command();
    let outcome = run(&mut with_signals_masked(&command), TIMEOUT);
    assert_eq!(outcome.status.code(), Some(65), "{outcome:?}");
    assert!(outcome.stderr.contains("cannot resolve [a.invalid]"), "{outcome:?}");
}

#[test]
fn without_connections_the_program_stops_at_once() {
    let mut balance = Builder::auto().operand("127.0.0.1:9").start();
    balance.signal(Signal::SIGTERM);
    let stopped = balance.wait_stopped(Duration::from_secs(5));
    assert_eq!(stopped.connections, 0);
}

#[test]
fn a_client_that_waits_for_a_server_does_not_delay_the_stop() {
    let blackhole = tests::Blackhole::open();
    let mut balance =
        Builder::auto().option(&["-t", "600", "--grace", "1"]).channel(blackhole.address()).start();
    let mut client = tests::connect(balance.address());
    balance.signal(Signal::SIGTERM);
    balance.wait_stopped(Duration::from_secs(10));
    end_of(&mut client);
}

#[test]
fn every_line_of_a_json_log_is_an_event() {
    let server = Backend::greeter("A");
    let mut balance = Builder::auto().channel(server.address()).start();
    tests::ask(balance.address()).expect("an answer");
    balance.signal(Signal::SIGTERM);
    balance.wait_stopped(TIMEOUT);
    let lines = balance.log();
    for line in &lines {
        assert!(Event::parse(line).is_some(), "{line}");
    }
    let ready = balance.wait_for("ready");
    assert_eq!(ready.level, "INFO");
    assert_eq!(ready.text("listener"), balance.address().to_string());
    assert_eq!(ready.text("groups"), format!("0: {}", server.address()));
}

#[test]
fn a_text_log_has_the_same_events_one_a_line() {
    let servers = ["A", "B", "C"].map(Backend::greeter);
    let [a, b, c] = servers.each_ref().map(Backend::address);
    let mut balance = Builder::new(Datapath::Relay)
        .quiet()
        .text()
        .channel(a)
        .channel(b)
        .operand("!")
        .channel(c)
        .spawn();
    let line = |word: &str, count: usize| {
        eventually(TIMEOUT, &format!("a line with {word}"), || {
            let lines = balance.log();
            let found: Vec<_> = lines.iter().filter(|l| l.contains(word)).cloned().collect();
            match found.len() == count {
                true => Ok(found.concat()),
                false => Err(format!("{lines:?}")),
            }
        })
    };
    let ready = line(" ready ", 1);
    let address = balance.address();
    for part in [
        " INFO ".to_owned(),
        format!(" listener={address} "),
        format!(r#" groups="0: {a} {b} ! 1: {c}" "#),
        " datapath=relay ".to_owned(),
        r#" reason=""#.to_owned(),
    ] {
        assert!(ready.contains(&part), "{part:?} is not in {ready:?}");
    }
    tests::ask(address).expect("an answer");
    balance.signal(Signal::SIGTERM);
    assert_eq!(balance.wait(TIMEOUT).code(), Some(0));
    let last = balance.log().pop().unwrap_or_default();
    for part in [" stopped ", "connections=1", "unserved=0", "sent=0", "rcvd=1"] {
        assert!(last.contains(part), "{part:?} is not in {last:?}");
    }
}

/// The signal closes the listener but not the open connection.
fn finishes_after(signal: Signal, datapath: Datapath) {
    let mut link = Link::new(datapath);
    let (client, server) = link.pair();
    link.balance.signal(signal);
    wait_until_refused(link.balance.address());
    both_ways(&client, &server, (3 << 20, 3 << 20), WHOLE_CHUNKS);
    drop((client, server));
    let stopped = link.balance.wait_stopped(Duration::from_secs(10));
    assert_eq!((stopped.sent, stopped.rcvd), ((3 << 20) + 1, (3 << 20) + 1));
    link.balance.assert_all_on_its_datapath(1);
}

/// Polls without connecting: a client that is still accepted would delay the shutdown.
fn wait_until_refused(address: SocketAddr) {
    eventually(TIMEOUT, "the listeners are closed", || match is_listening(address.port()) {
        true => Err("one is open".to_owned()),
        false => Ok(()),
    });
    let refused = TcpStream::connect_timeout(&address, TIMEOUT).expect_err("a late client");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
