//! What happens when the channel whose turn it is does not answer.

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use tests::{Backend, Balance, Blackhole, Builder, End, ReservedPort, ask, connect, end_of, skip};

#[test]
fn a_dead_channel_is_passed_over_and_the_turn_goes_on_behind_the_one_that_answered() {
    let (dead, a, b) = (ReservedPort::new(), Backend::greeter("A"), Backend::greeter("B"));
    let balance =
        Builder::auto().channel(dead.address()).channel(a.address()).channel(b.address()).start();
    expect(&balance, "A B A B A B");
}

#[test]
fn channels_are_tried_in_the_order_in_which_they_are_given() {
    let dead = [(); 3].map(|()| ReservedPort::new());
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let balance = Builder::auto()
        .channel(dead[0].address())
        .channel(dead[1].address())
        .channel(a.address())
        .channel(dead[2].address())
        .channel(b.address())
        .start();
    // From each dead channel on, the next that lives: never B where A comes first.
    expect(&balance, "A B A B A B");
}

#[test]
fn the_search_goes_round_to_the_channels_before_the_first_that_was_tried() {
    let a = Backend::greeter("A");
    let dead = [(); 2].map(|()| ReservedPort::new());
    let balance = Builder::auto()
        .channel(a.address())
        .channel(dead[0].address())
        .channel(dead[1].address())
        .start();
    expect(&balance, "A A A A");
}

#[test]
fn groups_are_tried_in_order_and_each_keeps_its_own_turn() {
    let dead = [(); 3].map(|()| ReservedPort::new());
    let (c, d) = (Backend::greeter("C"), Backend::greeter("D"));
    let e = Backend::greeter("E");
    let balance = Builder::auto()
        .channel(dead[0].address())
        .channel(dead[1].address())
        .operand("!")
        .channel(c.address())
        .channel(dead[2].address())
        .channel(d.address())
        .operand("!")
        .channel(e.address())
        .start();
    // Never E while the group before it has anybody.
    expect(&balance, "C D C D C D");
    drop(c);
    expect(&balance, "D D D");
    drop(d);
    expect(&balance, "E E");
}

#[test]
fn a_later_group_is_left_alone_while_an_earlier_one_answers() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let balance =
        Builder::auto().channel(a.address()).operand("!").channel(b.address()).operand("!").start();
    expect(&balance, "A A A A");
    assert_eq!(b.accepted(), 0);
}

#[test]
fn a_server_that_comes_back_gets_its_turns_again() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let port = ReservedPort::new();
    let c = Backend::greeter_at(port.address(), "C");
    let balance =
        Builder::auto().channel(a.address()).channel(b.address()).channel(port.address()).start();
    expect(&balance, "A B C A B");
    drop(c);
    expect(&balance, "A B A B A B");
    let _c = Backend::greeter_at(port.address(), "C");
    expect(&balance, "C A B C");
}

#[test]
fn a_client_that_nobody_can_serve_is_closed_and_the_program_goes_on() {
    let ports = [(); 2].map(|()| ReservedPort::new());
    let balance = Builder::auto()
        .channel(ports[0].address())
        .operand("!")
        .channel(ports[1].address())
        .start();
    for _ in 0..3 {
        assert_eq!(end_of(&mut connect(balance.address())), End::Clean);
    }
    let _a = Backend::greeter_at(ports[1].address(), "A");
    expect(&balance, "A A");
    let stopped = balance.stop();
    assert_eq!((stopped.connections, stopped.unserved), (5, 3));
}

#[test]
fn without_any_channel_each_client_is_closed() {
    let balance = Builder::auto().start();
    assert_eq!(end_of(&mut connect(balance.address())), End::Clean);
    let stopped = balance.stop();
    assert_eq!((stopped.connections, stopped.unserved), (1, 1));
}

#[test]
fn a_server_that_does_not_answer_costs_the_connect_timeout_and_no_more() {
    let (hole, a) = (Blackhole::open(), Backend::greeter("A"));
    let balance =
        Builder::auto().option(&["-t", "1"]).channel(hole.address()).channel(a.address()).start();
    for _ in 0..2 {
        let start = Instant::now();
        expect(&balance, "A");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took <= Duration::from_millis(2500), "{took:?}");
    }
}

#[test]
fn a_slow_connect_holds_nobody_else_up() {
    let (hole, a) = (Blackhole::open(), Backend::greeter("A"));
    let balance = Builder::auto()
        .option(&["-t", "4", "--workers", "1"])
        .channel(hole.address())
        .channel(a.address())
        .start();
    let address = balance.address();
    thread::scope(|scope| {
        let mut slow = Vec::new();
        for _ in 0..5 {
            // One after the other: every other client has the bad luck.
            let start = Instant::now();
            let mut unlucky = connect(address);
            slow.push(scope.spawn(move || {
                let mut name = String::new();
                unlucky.read_to_string(&mut name).expect("an answer");
                (name, start.elapsed())
            }));
            assert_eq!(ask(address).expect("an answer"), "A");
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        for slow in slow {
            let (name, took) = slow.join().expect("a slow client");
            assert_eq!(name, "A");
            assert!(took >= Duration::from_millis(3900), "{took:?}");
            assert!(took <= Duration::from_secs(9), "{took:?}");
        }
    });
}

#[test]
fn a_channel_at_its_limit_is_passed_over_until_a_connection_ends() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let balance = Builder::auto()
        .operand(&format!("{}:1", a.address()))
        .operand(&format!("{}:2", b.address()))
        .start();
    let mut standing: Vec<_> = ["A", "B", "B"]
        .map(|name| {
            let mut client = connect(balance.address());
            assert_eq!(greeting(&mut client), name);
            client
        })
        .into();
    assert_eq!(end_of(&mut connect(balance.address())), End::Clean);
    // Ends with the session, which has been counted down before it is reported.
    drop(standing.remove(0));
    balance.sessions(1);
    let mut client = connect(balance.address());
    assert_eq!(greeting(&mut client), "A");
}

#[test]
fn every_address_of_a_name_is_tried() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("giving the program an /etc/hosts of its own needs root");
    }
    let a = Backend::greeter("A");
    let port = a.address().port();
    let hosts = "127.9.9.9 many.test\n::1 many.test\n127.0.0.1 many.test\n127.0.0.1 localhost\n";
    let balance = Builder::auto().hosts(hosts).operand(&format!("many.test:{port}")).start();
    expect(&balance, "A A");
    drop(a);
    let _a = Backend::greeter_at(([127, 9, 9, 9], port).into(), "other");
    expect(&balance, "other other");
}

/// Asserts who answers the next clients, one after the other.
fn expect(balance: &Balance, names: &str) {
    let answers: Vec<_> =
        names.split(' ').map(|_| ask(balance.address()).expect("an answer")).collect();
    assert_eq!(answers.join(" "), names);
}

/// The first byte that an echo server says.
fn greeting(client: &mut TcpStream) -> String {
    let mut name = [0];
    match client.read_exact(&mut name) {
        Ok(()) => String::from_utf8_lossy(&name).into_owned(),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => "closed".into(),
        Err(error) => panic!("reading a greeting: {error}"),
    }
}
