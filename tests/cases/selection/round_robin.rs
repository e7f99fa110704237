//! Selection inside a group: strict round robin.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    thread,
};

use tests::{Backend, Balance, Builder, ReservedPort, ask};

#[test]
fn clients_go_to_the_channels_in_turn() {
    let servers = ["A", "B", "C"].map(Backend::greeter);
    let balance = over(&servers);
    expect(&balance, "A B C A B C A B C A");
    let stopped = balance.stop();
    assert_eq!((stopped.connections, stopped.unserved), (10, 0));
    assert_eq!((stopped.sent, stopped.rcvd), (0, 10));
}

#[test]
fn a_single_channel_gets_all() {
    let servers = ["A"].map(Backend::greeter);
    expect(&over(&servers), "A A A");
}

#[test]
fn a_channel_that_is_named_twice_gets_two_turns() {
    let servers = ["A", "B"].map(Backend::greeter);
    let balance = Builder::auto()
        .channel(servers[0].address())
        .channel(servers[0].address())
        .channel(servers[1].address())
        .start();
    expect(&balance, "A A B A A B");
}

#[test]
fn turns_are_exact_over_several_workers_and_many_clients() {
    const CLIENTS: usize = 300;
    let servers = ["A", "B", "C"].map(Backend::greeter);
    let mut builder = Builder::auto().option(&["--workers", "4"]);
    for server in &servers {
        builder = builder.channel(server.address());
    }
    let balance = builder.start();
    let counts = Mutex::new(BTreeMap::<String, usize>::new());
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                for _ in 0..CLIENTS / 30 {
                    let name = ask(balance.address()).expect("an answer");
                    *counts.lock().expect("no panic").entry(name).or_default() += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().expect("no panic");
    assert_eq!(counts, [("A", 100), ("B", 100), ("C", 100)].map(own).into());
    assert_eq!(balance.stop().connections, CLIENTS as u64);
}

#[test]
fn a_channel_without_port_is_tried_at_the_port_of_the_listener() {
    let port = ReservedPort::new();
    let at = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port.port()));
    let servers =
        [(2, "A"), (3, "B"), (4, "C")].map(|(last, name)| Backend::greeter_at(at(last), name));
    let balance = Builder::auto()
        .listen(port.address())
        .operand("127.0.0.2")
        .operand("127.0.0.3::16")
        .operand("127.0.0.4:")
        .start();
    expect(&balance, "A B C A");
    drop(servers);
}

fn own((name, count): (&str, usize)) -> (String, usize) {
    (name.to_owned(), count)
}

/// A program with these servers in one group.
fn over(servers: &[Backend]) -> Balance {
    let mut builder = Builder::auto();
    for server in servers {
        builder = builder.channel(server.address());
    }
    builder.start()
}

/// Asserts the names of the servers that answer the next clients, in order.
fn expect(balance: &Balance, names: &str) {
    let answers: Vec<_> =
        names.split(' ').map(|_| ask(balance.address()).expect("an answer")).collect();
    assert_eq!(answers.join(" "), names);
}
