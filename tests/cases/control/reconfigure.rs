//! A running program takes new arguments: open connections continue, every client is served, and
//! rejected arguments change nothing.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::{
    Backend, Blackhole, Builder, Datapath, End, Link, ReservedPort, RunDir, TIMEOUT, ask, connect,
    end_of, eventually, exchange, on_each_datapath,
};

fn connections_and_clients_survive_changes_of_servers(datapath: Datapath) {
    const CLIENTS: usize = 3;
    const ROUNDS: usize = 40;

    let dir = RunDir::new();
    let servers = ["A", "B", "C", "D"].map(Backend::echo);
    let [a, b, c, d] = servers.each_ref().map(|server| server.address().to_string());
    let (b_100, d_100) = (format!("{b}:100"), format!("{d}:100"));
    let lists: [&[&str]; 7] = [
        &[&a, &b],
        &[&b, &a],
        &[&c, "!", &a, &b],
        &[&a, &c, "%", &b_100],
        &[&d_100, "-H", "-t", "7"],
        &[&b, &b, &a, &d, "-T", "3000"],
        &[&c],
    ];
    let balance = dir.use_in(Builder::new(datapath).quiet().operand(&a)).start();
    let address = balance.address();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients = [(); CLIENTS].map(|()| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let mut client = open(address).0;
                    assert_echoes(&mut client);
                    assert_ends(client);
                    served.fetch_add(1, SeqCst);
                }
            })
        });
        // Also ends the clients when the test fails.
        let ended = RaiseOnDrop(&over);
        let mut opened = Vec::new();
        for round in 0..ROUNDS {
            assert_eq!(dir.configure(&balance, lists[round % lists.len()]), json!("done"));
            if round < 2 * lists.len() {
                opened.push(open(address).0);
            }
            opened.iter_mut().for_each(assert_echoes);
            let before = served.load(SeqCst);
            eventually(TIMEOUT, "others are served", || match served.load(SeqCst) {
                now if now > before + CLIENTS => Ok(()),
                _ if clients.iter().any(|client| client.is_finished()) => {
                    panic!("a client was not served")
                }
                now => Err(format!("{} were", now - before)),
            });
        }
        drop(ended);
        opened.iter_mut().for_each(assert_echoes);
        opened.into_iter().for_each(assert_ends);
    });
    assert_eq!(balance.stop().unserved, 0);
}

fn a_removed_server_gets_no_new_client_and_keeps_its_old_one(datapath: Datapath) {
    let dir = RunDir::new();
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let (at_a, at_b) = (a.address().to_string(), b.address().to_string());
    let builder = Builder::new(datapath).channel(a.address()).channel(b.address());
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    let (mut old, name) = open(address);
    let (mut other, other_name) = open(address);
    assert_eq!([name, other_name], ["A", "B"]);

    assert_eq!(dir.configure(&balance, &[&at_b]), json!("done"));
    assert_eq!(names(address, 6), "BBBBBB");
    assert_eq!(a.accepted(), 1);
    let rows = dir.show(address);
    assert_eq!(rows.iter().map(|row| row.address).collect::<Vec<_>>(), [b.address()]);
    assert_eq!(channel_of(&dir, address, &old), "-");
    assert_eq!(channel_of(&dir, address, &other), "0.0");
    assert_echoes(&mut old);
    // The channel that has number 0 now.
    assert!(dir.run_ok(address, "drop 0").starts_with("channel 0 dropped"));
    assert_eq!(end_of(&mut other), End::Reset);
    assert_echoes(&mut old);

    // The server is back, and still has that connection.
    assert_eq!(dir.configure(&balance, &[&at_b, &format!("{at_a}:1")]), json!("done"));
    let row = &dir.show(address)[1];
    assert_eq!((row.address, row.current, row.total), (a.address(), 1, 1));
    assert_eq!(channel_of(&dir, address, &old), "0.1");
    assert_eq!(names(address, 4), "BBBB");
    drop(old);
    dir.show_at_rest(address);
    assert_eq!(names(address, 2), "AB");

    // A removed server without a connection is forgotten.
    dir.show_at_rest(address);
    assert_eq!(dir.configure(&balance, &[&at_b]), json!("done"));
    assert_eq!(dir.configure(&balance, &[&at_b, &at_a]), json!("done"));
    assert_eq!(dir.show(address)[1].total, 0);
}

fn a_server_that_stays_keeps_its_counters_and_stays_disabled(datapath: Datapath) {
    let dir = RunDir::new();
    let servers = ["A", "B", "C"].map(Backend::echo);
    let [a, b, c] = servers.each_ref().map(|server| server.address().to_string());
    let by_name = format!("localhost:{}", servers[2].address().port());
    let builder = Builder::new(datapath).operand(&a).operand(&b).operand(&by_name);
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    names(address, 7);
    dir.run_ok(address, "disable 1; maxc 0 5");
    let before = dir.show_at_rest(address);
    assert_eq!(before.iter().map(|row| row.total).collect::<Vec<_>>(), [3, 2, 2]);

    let words = [&by_name, &c, &format!("{b}:9"), &a, "%"];
    assert_eq!(dir.configure(&balance, &words), json!("done"));
    let after = dir.show(address);
    let order = [(2, 0), (0, 0), (1, 9), (0, 0)];
    for (i, (row, (was, max))) in after.iter().zip(order).enumerate() {
        assert_eq!((row.group, row.channel, row.max, row.method.as_str()), (0, i, max, "Hash"));
        let was = &before[was];
        match i {
            // The same server by its address is a different channel.
            1 => assert_eq!((row.address, row.enabled, row.total), (servers[2].address(), true, 0)),
            _ => assert_eq!(
                (row.address, row.enabled, row.total, row.sent, row.rcvd),
                (was.address, was.enabled, was.total, was.sent, was.rcvd)
            ),
        }
    }
    // Commands address the channel by its new number.
    assert_eq!(dir.run_ok(address, "enable 2"), "channel 2 enabled\n");
    assert_eq!(dir.run_ok(address, "drain 3 30"), "channel 3 drained\n");
    let enabled: Vec<_> = dir.show(address).iter().map(|row| row.enabled).collect();
    assert_eq!(enabled, [true, true, true, false]);
}

fn an_idle_timeout_applies_to_open_connections(datapath: Datapath) {
    let dir = RunDir::new();
    let builder = Builder::new(datapath).option(&["--half-close-timeout", "0"]);
    let link = link(&dir, builder);
    let (mut client, mut server) = link.pair();
    let backend = server.local_addr().expect("getsockname").to_string();
    exchange(&mut client, &mut server);
    let start = Instant::now();
    assert_eq!(dir.configure(&link.balance, &[&backend, "-T", "1"]), json!("done"));
    end_of(&mut client);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    // The timer notices the second change as well.
    assert_eq!(dir.configure(&link.balance, &[&backend, "-T", "3600"]), json!("done"));
    let (mut client, mut server) = link.pair();
    exchange(&mut client, &mut server);
    assert_eq!(dir.configure(&link.balance, &[&backend, "-T", "1"]), json!("done"));
    end_of(&mut client);
}

on_each_datapath!(
    connections_and_clients_survive_changes_of_servers,
    a_removed_server_gets_no_new_client_and_keeps_its_old_one,
    a_server_that_stays_keeps_its_counters_and_stays_disabled,
    an_idle_timeout_applies_to_open_connections,
);

#[test]
fn rejected_arguments_change_nothing() {
    let dir = RunDir::new();
    let servers = ["A", "B"].map(Backend::echo);
    let [a, b] = servers.each_ref().map(|server| server.address().to_string());
    let balance = dir.use_in(Builder::auto().operand(&a).operand(&b)).start();
    let address = balance.address();
    names(address, 2);
    dir.run_ok(address, "disable 1; maxc 0 5");
    let before = dir.show_at_rest(address);
    let refused: [(&str, &[&str]); 12] = [
        ("incompatible", &["-x"]),
        ("incompatible", &["-t", "0", &a]),
        ("incompatible", &["--help"]),
        ("incompatible", &["!"]),
        ("incompatible", &[&a, "!", "!", &b]),
        ("incompatible", &[&a, "127.0.0.1:nosuchservice"]),
        ("incompatible", &[&a, "--workers", "7"]),
        ("incompatible", &[&b, "-t", "7", "--run-dir", "/"]),
        ("incompatible", &["-c", "show"]),
        ("incompatible", &["-i"]),
        ("invalid_address", &[&b, "nosuchhost.invalid:25"]),
        ("invalid_address", &[&a, &b, "nosuchhost.invalid:25", "--grace", "7"]),
    ];
    for (kind, words) in refused {
        let reply = dir.configure(&balance, words);
        let why = reply[kind].as_str().unwrap_or_else(|| panic!("{words:?}: {reply}"));
        assert_eq!(why.lines().count(), 1, "{words:?}: {why}");
        assert_eq!(dir.show(address), before, "{words:?}");
        // The old arguments are still active, and changes by commands remain.
        assert_eq!(dir.configure(&balance, &[&a, &b]), json!("already"), "{words:?}");
        assert_eq!(dir.show(address), before, "{words:?}");
    }
    for words in [&json!([]), &json!(["stop"]), &json!(["1", a])] {
        let reply = dir.ask(address, &json!({"configure": {"words": words}}));
        assert!(reply["incompatible"].is_string(), "{words}: {reply}");
    }
    assert_eq!(names(address, 2), "AA");
    assert!(!balance.events().iter().any(|event| event.message == "configured"));
    let open = open(address);
    balance.signal(Signal::SIGTERM);
    let stopping = balance.wait_for("stopping: waiting for connections to end");
    assert_eq!(stopping.number("grace"), 30);
    drop(open);
}

#[test]
fn a_change_is_logged_in_one_line() {
    let (dir, balance) = (RunDir::new(), Builder::auto().operand("127.0.0.1:9"));
    let balance = dir.use_in(balance).start();
    let words = ["127.0.0.1:8", "-t", "7", "-f"];
    assert_eq!(dir.configure(&balance, &words), json!("done"));
    assert_eq!(dir.configure(&balance, &words), json!("already"));
    let logged = balance.wait_for("configured").text("changes");
    let expected = "-t 7 (was 5), added 127.0.0.1:8 in group 0, removed 127.0.0.1:9 in group 0, \
                    servers 127.0.0.1:8";
    assert_eq!(logged, expected);
    let count = |event: &&tests::Event| event.message == "configured";
    assert_eq!(balance.events().iter().filter(count).count(), 1);
}

#[test]
fn a_connect_timeout_applies_to_the_next_connect() {
    let dir = RunDir::new();
    let (blackhole, server) = (Blackhole::open(), Backend::greeter("A"));
    let builder = Builder::auto().option(&["-t", "86400"]);
    let builder = builder.channel(blackhole.address()).channel(server.address());
    let balance = dir.use_in(builder).start();
    let words = [&blackhole.address().to_string(), &server.address().to_string(), "-t", "1"];
    assert_eq!(dir.configure(&balance, &words), json!("done"));
    assert_eq!(ask(balance.address()).expect("an answer"), "A");
    assert_eq!(dir.show(balance.address())[0].total, 1);
}

#[test]
fn a_failed_connect_disables_its_server_once_asked_for() {
    let dir = RunDir::new();
    let (dead, server) = (ReservedPort::new(), Backend::greeter("A"));
    let builder = Builder::auto().channel(dead.address()).channel(server.address());
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    let servers = [dead.address().to_string(), server.address().to_string()];
    for (option, enabled) in [(None, true), (Some("-a"), false)] {
        if let Some(option) = option {
            let words = [&servers[0], &servers[1], option];
            assert_eq!(dir.configure(&balance, &words), json!("done"));
        }
        let before = dir.show(address)[0].total;
        assert_eq!(ask(address).expect("an answer"), "A");
        let row = &dir.show(address)[0];
        assert_eq!((row.total, row.enabled), (before + 1, enabled));
    }
    balance.wait_for("connection failed group 0 channel 0");
}

#[test]
fn hash_failover_applies_once_asked_for() {
    let dir = RunDir::new();
    let servers = ["A", "B"].map(Backend::greeter);
    let [a, b] = servers.each_ref().map(|server| server.address().to_string());
    let builder = Builder::auto().operand(&a).operand(&b).operand("%");
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    let own = ask(address).expect("an answer");
    dir.run_ok(address, if own == "A" { "disable 0" } else { "disable 1" });
    assert_eq!(ask(address).expect("an orderly close"), "");
    assert_eq!(dir.configure(&balance, &[&a, &b, "%", "-H"]), json!("done"));
    let other = if own == "A" { "B" } else { "A" };
    assert_eq!(ask(address).expect("an answer"), other);
    assert_eq!(dir.configure(&balance, &[&a, &b, "%"]), json!("done"));
    assert_eq!(ask(address).expect("an orderly close"), "");
}

#[test]
fn the_current_grace_period_applies_at_the_stop() {
    let dir = RunDir::new();
    let mut link = link(&dir, Builder::auto().option(&["--grace", "3600"]));
    let (mut client, server) = link.pair();
    let backend = server.local_addr().expect("getsockname").to_string();
    assert_eq!(dir.configure(&link.balance, &[&backend, "--grace", "0"]), json!("done"));
    link.balance.signal(Signal::SIGTERM);
    link.balance.wait_stopped(TIMEOUT);
    assert_eq!(end_of(&mut client), End::Reset);
}

/// A program whose only backend is the test.
fn link(dir: &RunDir, builder: Builder) -> Link {
    Link::with(dir.use_in(builder), (Ipv4Addr::LOCALHOST, 0).into())
}

/// Sets a flag when dropped.
struct RaiseOnDrop<'f>(&'f AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A connection to one of the echo servers, and the name of the server.
fn open(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = connect(address);
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server's name");
    (stream, char::from(name[0]).to_string())
}

/// Names of the echo servers that `count` clients get, one after the other.
fn names(address: SocketAddr, count: usize) -> String {
    (0..count).map(|_| open(address).1).collect()
}

fn assert_echoes(stream: &mut TcpStream) {
    let mut echo = [0; 5];
    stream.write_all(b"hello").expect("the client's bytes");
    stream.read_exact(&mut echo).expect("the server's bytes");
    assert_eq!(&echo, b"hello");
}

fn assert_ends(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(end_of(&mut stream), End::Clean);
}

/// The channel of a client's connection, as `sessions` shows it.
fn channel_of(dir: &RunDir, address: SocketAddr, client: &TcpStream) -> String {
    let client = client.local_addr().expect("getsockname").to_string();
    let text = dir.run_ok(address, "sessions");
    let line = text.lines().find(|line| line.starts_with(&format!("{client} ")));
    let line = line.unwrap_or_else(|| panic!("no {client} in {text}"));
    line.split_whitespace().nth(1).expect("a channel").to_owned()
}
