//! What happens when the channel whose turn it is does not answer.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::{
    Backend, Balance, Blackhole, Builder, Datapath, End, Namespace, PATIENCE, ReservedPort, RunDir,
    ask, connect, end_of, eventually, on_each_datapath, run, skip,
};

#[test]
fn a_connect_that_failed_is_logged_with_the_address_that_was_tried() {
    let (dead, a) = (ReservedPort::new(), Backend::greeter("A"));
    let balance = Builder::auto().channel(dead.address()).channel(a.address()).start();
    expect(&balance, "A");
    let failed = balance.wait_for("connect failed");
    assert_eq!(failed.text("server"), dead.address().to_string());
}

#[test]
fn a_server_that_is_the_listener_is_refused_at_the_start() {
    let port = ReservedPort::new();
    let own = port.address();
    let everywhere: SocketAddr = (Ipv6Addr::UNSPECIFIED, own.port()).into();
    let other: SocketAddr = ([127, 0, 0, 9], own.port()).into();
    for (listen, server) in [
        (own, own.to_string()),
        (everywhere, other.to_string()),
        (own, format!("localhost:{}", own.port())),
    ] {
        let builder = Builder::auto().listen(listen).operand("127.0.0.1:1").operand(&server);
        let (mut command, ..) = builder.command();
        let outcome = run(&mut command, PATIENCE);
        assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
        let told = format!(":{} is the listener ", own.port());
        assert!(outcome.stderr.contains(&told), "{outcome:?}");
    }
}

/// A port in networks where all are free.
const PORT: u16 = 30_000;

/// A server behind an address that is not seen to be this host's own before it is connected to. From another
/// address of this host (`-B`) that shows only where the connection comes back.
fn a_server_that_leads_back_is_a_failed_connect(datapath: Datapath) {
    for (back, source) in [
        ("198.51.100.9", None),
        ("2001:db8::9", None),
        ("198.51.100.9", Some("127.0.0.1")),
        ("2001:db8::9", Some("::1")),
        ("198.51.100.9", Some("198.51.100.1")),
        ("2001:db8::9", Some("2001:db8::1")),
    ] {
        let host = match Namespace::new() {
            Ok(host) => host,
            Err(error) => return skip(&format!("no network of its own: {error}")),
        };
        host.ip("route add local 198.51.100.0/24 dev lo\nroute add local 2001:db8::/64 dev lo\n");
        host.ip("address add 198.51.100.1/32 dev lo\naddress add 2001:db8::1/128 dev lo nodad\n");
        // From where the kernel connects: IPv6 chooses among the addresses of interfaces.
        let from: IpAddr = match source {
            Some(source) => source.parse().expect("an address"),
            None if back.contains('.') => back.parse().expect("an address"),
            None => "2001:db8::1".parse().expect("an address"),
        };
        let is_seen = from.is_loopback() || from.to_string() == back;
        host.enter(|| {
            let (server, dir) = (Backend::greeter("A"), RunDir::new());
            let ip: IpAddr = back.parse().expect("an address");
            let builder = dir.given_to(Builder::new(datapath)).quiet();
            let builder = builder.listen((Ipv6Addr::UNSPECIFIED, PORT).into());
            let options: Vec<_> = source.into_iter().flat_map(|ip| ["-B", ip]).collect();
            let builder = builder.option(&options).channel((ip, PORT).into()).operand("!");
            let balance = builder.channel(server.address()).start();
            let address = balance.address();
            if is_seen {
                assert_eq!(ask(address).expect("the other channel"), "A", "{back}");
            }
            eventually(PATIENCE, "clients are served", || match ask(address) {
                Ok(answer) if answer == "A" => Ok(()),
                other => Err(format!("{back} {source:?}: {other:?}")),
            });
            expect(&balance, "A A A A");
            balance.wait_for("a server leads back to this instance, not connecting");
            // With all that came back, and none is left.
            let stopped = balance.stop();
            assert!(stopped.connections < 40, "{stopped:?}");
        });
    }
}

/// TCP connects a socket with itself where its own port is the one that it asks for.
fn a_connection_with_itself_is_a_refused_connect(datapath: Datapath) {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let host = match Namespace::new() {
            Ok(host) => host,
            Err(error) => return skip(&format!("no network of its own: {error}")),
        };
        host.enter(|| {
            let listen: SocketAddr = (ip, PORT).into();
            let builder = Builder::new(datapath).listen(listen).channel((ip, PORT + 1).into());
            let balance = builder.start();
            host.set("ipv4/ip_local_port_range", &format!("{0} {0}", PORT + 1));
            for i in 0..3 {
                let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None);
                let socket = socket.expect("a socket");
                socket.bind(&SocketAddr::from((ip, PORT + 100 + i)).into()).expect("bind");
                socket.connect(&listen.into()).expect("connect");
                socket.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
                let mut client = TcpStream::from(socket);
                client.write_all(b"hello").expect("writing");
                let mut answer = Vec::new();
                // What it sent is not read: its end is a reset.
                let _ = client.read_to_end(&mut answer);
                assert_eq!(answer, b"", "its own bytes come back");
            }
            assert_eq!(balance.stop().unserved, 3);
        });
    }
}

on_each_datapath!(
    a_server_that_leads_back_is_a_failed_connect,
    a_connection_with_itself_is_a_refused_connect,
);

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
