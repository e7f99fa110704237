//! What happens when the selected channel does not answer.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;
use tests::{
    Backend, Balance, Blackhole, Builder, Cable, Datapath, End, Family, LinkConditions, Namespace,
    Network, Peer, ReservedPort, RunDir, TIMEOUT, Topology, ask, connect, end_of, eventually,
    on_each_datapath, run, skip,
};

#[test]
fn a_failed_connect_is_logged_with_its_address() {
    let (dead, a) = (ReservedPort::new(), Backend::greeter("A"));
    let balance = Builder::auto().channel(dead.address()).channel(a.address()).start();
    expect(&balance, "A");
    let failed = balance.wait_for("connect failed");
    assert_eq!(failed.text("server"), dead.address().to_string());
}

#[test]
fn a_server_that_is_the_listener_is_refused_at_start() {
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
        let outcome = run(&mut command, TIMEOUT);
        assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
        let logged = format!(":{} is the listener ", own.port());
        assert!(outcome.stderr.contains(&logged), "{outcome:?}");
    }
}

/// A port in a namespace where all ports are free.
const PORT: u16 = 30_000;

/// The server's address is not known as an address of this host before the connect. With a source
/// address (`-B`) the loop shows only when the connection arrives at the listener.
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
        // The source address that the kernel chooses; IPv6 chooses an interface address.
        let from: IpAddr = match source {
            Some(source) => source.parse().expect("an address"),
            None if back.contains('.') => back.parse().expect("an address"),
            None => "2001:db8::1".parse().expect("an address"),
        };
        let is_seen = from.is_loopback() || from.to_string() == back;
        host.enter(|| {
            let (server, dir) = (Backend::greeter("A"), RunDir::new());
            let ip: IpAddr = back.parse().expect("an address");
            let builder = dir.use_in(Builder::new(datapath)).quiet();
            let builder = builder.listen((Ipv6Addr::UNSPECIFIED, PORT).into());
            let options: Vec<_> = source.into_iter().flat_map(|ip| ["-B", ip]).collect();
            let builder = builder.option(&options).channel((ip, PORT).into()).operand("!");
            let balance = builder.channel(server.address()).start();
            let address = balance.address();
            if is_seen {
                assert_eq!(ask(address).expect("the other channel"), "A", "{back}");
            }
            eventually(TIMEOUT, "clients are served", || match ask(address) {
                Ok(answer) if answer == "A" => Ok(()),
                other => Err(format!("{back} {source:?}: {other:?}")),
            });
            expect(&balance, "A A A A");
            balance.wait_for("server address leads back to this instance, not connecting");
            // Counts the connections that came back; none of them is left.
            let stopped = balance.stop();
            assert!(stopped.connections < 40, "{stopped:?}");
        });
    }
}

/// TCP connects a socket to itself when its own port is the destination port.
fn a_connection_to_itself_is_a_refused_connect(datapath: Datapath) {
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
                socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
                let mut client = TcpStream::from(socket);
                client.write_all(b"hello").expect("writing");
                let mut answer = Vec::new();
                // The program does not read the client's bytes, so the connection ends with a RST.
                let _ = client.read_to_end(&mut answer);
                assert_eq!(answer, b"", "its own bytes come back");
            }
            assert_eq!(balance.stop().unserved, 3);
        });
    }
}

on_each_datapath!(
    a_server_that_leads_back_is_a_failed_connect,
    a_connection_to_itself_is_a_refused_connect,
);

#[test]
fn a_dead_channel_is_skipped_and_the_next_turn_follows_the_channel_that_answered() {
    let (dead, a, b) = (ReservedPort::new(), Backend::greeter("A"), Backend::greeter("B"));
    let balance =
        Builder::auto().channel(dead.address()).channel(a.address()).channel(b.address()).start();
    expect(&balance, "A B A B A B");
}

#[test]
fn channels_are_tried_in_their_order() {
    let dead = [(); 3].map(|()| ReservedPort::new());
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let balance = Builder::auto()
        .channel(dead[0].address())
        .channel(dead[1].address())
        .channel(a.address())
        .channel(dead[2].address())
        .channel(b.address())
        .start();
    // From each dead channel the search goes to the next live one: never B where A comes first.
    expect(&balance, "A B A B A B");
}

#[test]
fn the_search_wraps_around() {
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
fn groups_are_tried_in_order_and_keep_their_own_turns() {
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
    // Never E while a channel of the group before answers.
    expect(&balance, "C D C D C D");
    drop(c);
    expect(&balance, "D D D");
    drop(d);
    expect(&balance, "E E");
}

#[test]
fn a_later_group_is_unused_while_an_earlier_one_answers() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let balance =
        Builder::auto().channel(a.address()).operand("!").channel(b.address()).operand("!").start();
    expect(&balance, "A A A A");
    assert_eq!(b.accepted(), 0);
}

#[test]
fn a_server_that_recovers_gets_its_turns_again() {
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
fn a_client_without_a_server_is_closed_and_the_program_goes_on() {
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
fn a_server_that_does_not_answer_costs_one_connect_timeout() {
    let (blackhole, a) = (Blackhole::open(), Backend::greeter("A"));
    let balance = Builder::auto()
        .option(&["-t", "1"])
        .channel(blackhole.address())
        .channel(a.address())
        .start();
    for _ in 0..2 {
        let start = Instant::now();
        expect(&balance, "A");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took <= Duration::from_millis(2500), "{took:?}");
    }
}

#[test]
fn a_slow_connect_delays_no_other_client() {
    let (blackhole, a) = (Blackhole::open(), Backend::greeter("A"));
    let balance = Builder::auto()
        .option(&["-t", "4", "--workers", "1"])
        .channel(blackhole.address())
        .channel(a.address())
        .start();
    let address = balance.address();
    thread::scope(|scope| {
        let mut slow = Vec::new();
        for _ in 0..5 {
            // One after the other: every second client is assigned the dead channel.
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
fn a_channel_at_its_limit_is_skipped_until_a_connection_ends() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let balance = Builder::auto()
        .operand(&format!("{}:1", a.address()))
        .operand(&format!("{}:2", b.address()))
        .start();
    let mut open: Vec<_> = ["A", "B", "B"]
        .map(|name| {
            let mut client = connect(balance.address());
            assert_eq!(greeting(&mut client), name);
            client
        })
        .into();
    assert_eq!(end_of(&mut connect(balance.address())), End::Clean);
    // The session ends; the program counts it down before it logs the end.
    drop(open.remove(0));
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

#[test]
fn a_far_server_with_many_addresses_is_reached() {
    // One round trip is longer than an equal share of the connect timeout.
    let delay = Duration::from_millis(100);
    let far = Cable::with(LinkConditions { delay, ..LinkConditions::default() });
    let cables = [Cable::PLAIN, far];
    let Some(network) = Network::with(Topology::Apart, Family::V4, cables) else { return };
    let server = network.peer(Peer::Server).enter(|| Backend::greeter_at(network.backend(), "A"));
    let mut hosts = format!("{} far.test\n", server.address().ip());
    (0..60).for_each(|i| hosts += &format!("10.11.2.{} far.test\n", 100 + i));
    let builder = Builder::auto().hosts(&hosts).option(&["-t", "5"]);
    let builder = builder.operand(&format!("far.test:{}", server.address().port()));
    let (balance, _port) = builder.start_within(&network);
    let begun = Instant::now();
    network.peer(Peer::Client).enter(|| expect(&balance, "A"));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn addresses_that_do_not_answer_hardly_delay_the_next() {
    let holes = 6;
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let server = network.peer(Peer::Server).enter(|| Backend::greeter_at(network.backend(), "A"));
    let mut hosts = String::new();
    for i in 0..holes {
        // A neighbour that does not exist, on a subnet that makes the resolver prefer its address.
        network.balancer().ip(&format!(
            "link add blackhole{i} type veth peer name other{i}\nlink set other{i} up\n\
             address add dev blackhole{i} 10.77.{i}.0/31\nlink set blackhole{i} up\n\
             neighbour add 10.77.{i}.1 lladdr 02:00:00:00:00:01 dev blackhole{i}"
        ));
        hosts += &format!("10.77.{i}.1 many.test\n");
    }
    hosts += &format!("{} many.test\n", server.address().ip());
    let builder = Builder::auto().hosts(&hosts).option(&["-t", "20", "--workers", "1"]);
    let builder = builder.operand(&format!("many.test:{}", server.address().port()));
    let (balance, _port) = builder.start_within(&network);
    let address = balance.address();
    let served = |clients: usize| {
        let begun = Instant::now();
        network.peer(Peer::Client).enter(|| {
            thread::scope(|scope| {
                let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| ask(address))).collect();
                for client in clients {
                    assert_eq!(client.join().expect("a client").expect("an answer"), "A");
                }
            });
        });
        begun.elapsed()
    };
    let took = served(1);
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Each of the first attempts lasts a second, and is closed when another attempt succeeds.
    balance.sessions(1);
    let sockets = balance.process().sockets();
    const CLIENTS: usize = 40;
    let most = thread::scope(|scope| {
        let served = scope.spawn(|| served(CLIENTS));
        let mut most = 0;
        while !served.is_finished() {
            most = most.max(balance.process().sockets().saturating_sub(sockets));
            thread::sleep(Duration::from_millis(5));
        }
        let took = served.join().expect("all clients");
        assert!(took < Duration::from_secs(15), "{took:?}");
        most
    });
    // One socket for the client, and four concurrent attempts.
    assert!((CLIENTS..=5 * CLIENTS).contains(&most), "{most} sockets at a time");
    eventually(Duration::from_secs(10), "all attempts are closed", || {
        match balance.process().sockets() {
            now if now <= sockets => Ok(()),
            now => Err(format!("{now} of {sockets}")),
        }
    });
    assert_eq!(balance.stop().unserved, 0);
}

#[test]
fn a_name_is_logged_when_it_changes_and_when_it_does_not_resolve() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("giving the program an /etc/hosts of its own needs root");
    }
    let file = NamedTempFile::new().expect("a temporary file");
    let have = |lines: &str| fs::write(file.path(), lines).expect("writing a temporary file");
    have("127.1.1.2 a.test b.test\n127.1.1.3 a.test\n");
    let dir = RunDir::new();
    let balance = dir
        .use_in(Builder::auto().quiet())
        .with_file("/etc/hosts", file.path())
        .option(&["--resolve-interval", "1"])
        .operand("a.test:9")
        .operand("b.test:9")
        .operand("a.test:10")
        .start();
    let logged = |message: &str| {
        let events = balance.events().into_iter().filter(|event| event.message == message);
        events.map(|event| event.text("host")).collect::<Vec<_>>()
    };
    let since = || {
        let json = dir.run_ok(balance.address(), "show --json");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let channels = json["channels"].as_array().expect("channels").clone();
        channels.iter().map(|channel| channel["unresolved_since"].as_u64()).collect::<Vec<_>>()
    };
    // The addresses of a.test are reordered, b.test gets another one.
    have("127.1.1.3 a.test b.test\n127.1.1.2 a.test\n");
    balance.wait_for("server address changed");
    assert_eq!(logged("server address changed"), ["b.test"]);
    assert_eq!(since(), [None; 3]);
    // a.test does not resolve any more.
    have("127.1.1.3 b.test\n");
    balance.wait_for("cannot resolve server name, keeping its last addresses");
    let gone = since();
    assert!(gone[0].is_some_and(|since| since > 1_600_000_000), "{gone:?}");
    assert_eq!((gone[1], gone[2]), (None, gone[0]));
    let address: SocketAddr = (Ipv4Addr::new(127, 1, 1, 2), 9).into();
    assert_eq!(dir.show(balance.address())[0].address, address);
    // Another refresh: the failure is not logged again.
    have("127.1.1.4 b.test\n");
    eventually(Duration::from_secs(30), "another round", || {
        match logged("server address changed").len() {
            2.. => Ok(()),
            _ => Err("not yet".to_owned()),
        }
    });
    assert_eq!(since(), gone);
    have("127.1.1.3 a.test\n127.1.1.2 a.test\n127.1.1.4 b.test\n");
    balance.wait_for("server name resolves again");
    assert_eq!(since(), [None; 3]);
    assert_eq!(logged("cannot resolve server name, keeping its last addresses"), ["a.test"]);
    assert_eq!(logged("server name resolves again"), ["a.test"]);
    assert_eq!(logged("server address changed").len(), 2);
}

/// Asserts the names of the servers that answer the next clients, in order.
fn expect(balance: &Balance, names: &str) {
    let answers: Vec<_> =
        names.split(' ').map(|_| ask(balance.address()).expect("an answer")).collect();
    assert_eq!(answers.join(" "), names);
}

/// The first byte from an echo server.
fn greeting(client: &mut TcpStream) -> String {
    let mut name = [0];
    match client.read_exact(&mut name) {
        Ok(()) => String::from_utf8_lossy(&name).into_owned(),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => "closed".into(),
        Err(error) => panic!("reading a greeting: {error}"),
    }
}
