//! Tests of spliced connections alone. No socket on this host owns such a connection, so the splice
//! program must handle its end, forged packets and neighbouring connections by packets only.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use socket2::{Domain, Socket, Type};

use tests::{
    Backend, BpfObjects, Builder, Cable, Datapath, End, Family, Link, Network, Peer, RunDir,
    TIMEOUT, Topology, WHOLE_CHUNKS, both_ways, connect, end_of, eventually, exchange, flag,
    has_tcx, kernel_works, note, reset, send_segment, skip,
};

#[test]
fn chained_programs_all_splice() {
    if !kernel_works() {
        return;
    }
    // Two programs in front of a third: a packet passes the three filters in this order on its way
    // to the server, and in reverse order on the way back.
    let inner = Link::new(Datapath::Splice);
    let middle = Builder::new(Datapath::Splice).channel(inner.balance.address()).start();
    let outer = Builder::new(Datapath::Splice).channel(middle.address()).start();
    let (client, server) = inner.settle(connect(outer.address()));
    both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
    drop((client, server));
    for balance in [&inner.balance, &middle, &outer] {
        balance.assert_all_handed_over(1);
    }
}

/// A peer learns of window space only from a forwarded packet, so a join that waited for such space
/// would stall. Rounds alternate between the datapaths, so other load of the machine affects both.
#[test]
fn a_transfer_is_not_held_up_while_it_is_being_joined() {
    if !kernel_works() {
        return;
    }
    let links = [Datapath::Relay, Datapath::Splice].map(Link::new);
    let mut took = [Duration::ZERO; 2];
    for _ in 0..8 {
        for (link, took) in links.iter().zip(&mut took) {
            let (client, server) = link.pair();
            let begun = Instant::now();
            both_ways(&client, &server, (20 << 20, 20 << 20), WHOLE_CHUNKS);
            *took += begun.elapsed();
        }
    }
    let [relay, splice] = took;
    note(&format!("20 MiB each way, 8 times: relay {relay:?}, splice {splice:?}"));
    assert!(splice < relay * 5 / 2, "{splice:?}, where the relay takes {relay:?}");
}

#[test]
fn loopback_is_filtered_only_once_a_connection_is_spliced() {
    if !kernel_works() {
        return;
    }
    if !has_tcx() {
        return skip("the kernel cannot list the programs of an interface");
    }
    let link = Link::new(Datapath::Splice);
    let process = link.balance.process().0;
    assert_eq!(on_loopback(process), 0, "before");
    let (client, server) = link.settled_pair();
    assert_eq!(on_loopback(process), 1, "spliced");
    drop((client, server));
    link.balance.assert_all_handed_over(1);
}

/// Number of a process's programs on the ingress of loopback.
fn on_loopback(process: u32) -> usize {
    // The query fails when another process detaches its program meanwhile.
    let (_, there) = eventually(TIMEOUT, "the kernel lists the programs on loopback", || {
        SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map_err(|error| error.to_string())
    });
    let own = BpfObjects::of(process);
    there.iter().filter(|program| own.programs().contains(&program.id())).count()
}

#[test]
fn stats_show_what_is_spliced_and_what_is_not() {
    if !kernel_works() {
        return;
    }
    let dir = RunDir::new();
    let link =
        Link::with(dir.use_in(Builder::new(Datapath::Splice)), (Ipv4Addr::LOCALHOST, 0).into());
    let address = link.balance.address();
    let (mut client, mut server) = link.settled_pair();
    eventually(TIMEOUT, "the connection is counted", || {
        exchange(&mut client, &mut server);
        let stats = dir.run_ok(address, "stats");
        match (number(&stats, "spliced now"), number(&stats, "spliced")) {
            (Some(1), Some(1)) => Ok(()),
            _ => Err(stats),
        }
    });
    let stats = dir.run_ok(address, "stats");
    assert!(number(&stats, "packets spliced") > Some(10), "{stats}");
    assert_eq!(number(&stats, "packets dropped"), Some(0), "{stats}");
    assert_eq!(number(&stats, "accepted"), Some(1), "{stats}");
    assert!(stats.starts_with("datapath                splice\n"), "{stats}");
    drop((client, server));
    link.balance.assert_all_handed_over(1);
    let stats = dir.run_ok(address, "stats");
    assert_eq!(number(&stats, "spliced now"), Some(0), "{stats}");
    assert_eq!(number(&stats, "spliced"), Some(1), "{stats}");
}

#[test]
fn a_client_of_the_other_family_takes_the_next_datapath() {
    if !kernel_works() {
        return;
    }
    let Ok(port) = tests::ReservedPort::bind((Ipv6Addr::LOCALHOST, 0).into()) else {
        return skip("no IPv6 here");
    };
    let dir = RunDir::new();
    let builder = dir.use_in(Builder::new(Datapath::Splice)).listen(port.address());
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    let (client, server) = link.settled_pair();
    both_ways(&client, &server, (1 << 20, 1 << 20), WHOLE_CHUNKS);
    drop((client, server));
    let session = link.balance.sessions(1).remove(0);
    assert_eq!((session.datapath.as_str(), session.end.as_str()), ("sockmap", "clean"));
    let stats = dir.run_ok(link.balance.address(), "stats");
    let line = stats.lines().find(|line| line.starts_with("not spliced"));
    assert_eq!(
        line,
        Some("not spliced             1 (one side is IPv4, the other IPv6)"),
        "{stats}"
    );
}

/// A client with a receive buffer of `bytes`, which the kernel doubles.
fn with_receive_buffer(bytes: usize, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    socket.connect(&address.into()).expect("connecting to the program");
    let client = TcpStream::from(socket);
    client.set_nodelay(true).expect("TCP_NODELAY");
    client.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    client
}

/// The window that the program has granted the server may exceed the client's whole buffer.
#[test]
fn a_window_below_one_segment_takes_the_next_datapath() {
    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    for _ in 0..10 {
        let (client, server) = link.settle(with_receive_buffer(52_000, link.balance.address()));
        both_ways(&client, &server, (1000, 65_536), WHOLE_CHUNKS);
    }
    let sessions = link.balance.sessions(10);
    assert!(sessions.iter().all(|session| session.datapath == "sockmap"), "{sessions:?}");
}

/// A loopback segment fits the client's first window, and no later one.
#[test]
fn a_window_of_one_segment_does_not_wait_for_probes() {
    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    let (client, server) = link.settle(with_receive_buffer(65_536, link.balance.address()));
    let begun = Instant::now();
    both_ways(&client, &server, (1000, 4 << 20), WHOLE_CHUNKS);
    // Waiting for a probe would take 200 ms for each of 64 segments.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn forged_segments_with_wrong_numbers_break_nothing() {
    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    let (client, server) = link.settled_pair();
    let ahead = 1u32 << 30;
    for (back, payload, flags) in [
        (0, "", flag::SYN),
        (5000, "", flag::SYN),
        (5000, "", flag::RST),
        (5000, "", flag::RST | flag::ACK),
        // Inside the window but not at its left edge: the peer sends a challenge ACK.
        (1000u32.wrapping_neg(), "", flag::RST | flag::ACK),
        // A reset that looks valid after a byte that was never sent.
        (ahead.wrapping_neg(), "x", flag::ACK),
        ((ahead + 1).wrapping_neg(), "", flag::RST | flag::ACK),
        // Old FINs, and FINs far ahead.
        (5000, "", flag::FIN | flag::ACK),
        (ahead.wrapping_neg(), "", flag::FIN | flag::ACK),
    ] {
        if let Err(e) = send_segment(&client, back, payload.as_bytes(), flags) {
            return skip(&format!("cannot put a segment on the wire: {e}"));
        }
        both_ways(&client, &server, (100_000, 100_000), WHOLE_CHUNKS);
    }
    drop((client, server));
    link.balance.assert_all_handed_over(1);
    let session = link.balance.sessions(1).remove(0);
    let bytes = Link::SETTLED + 9 * 100_000;
    assert_eq!((session.end.as_str(), session.sent, session.rcvd), ("clean", bytes, bytes));
}

#[test]
fn a_reset_with_the_right_number_breaks_it() {
    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    let (client, mut server) = link.settled_pair();
    if let Err(e) = send_segment(&client, 0, &[], flag::RST | flag::ACK) {
        return skip(&format!("cannot put a segment on the wire: {e}"));
    }
    assert_eq!(end_of(&mut server), End::Reset);
    link.balance.assert_all_handed_over(1);
    assert_eq!(link.balance.sessions(1)[0].end, "client reset");
}

/// The reset may come before the bytes ahead of it are forwarded.
#[test]
fn a_reset_while_a_pair_is_being_joined_passes_through() {
    /// Enough pairs to meet the moment of the join several times.
    const PAIRS: usize = 3000;

    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    let mut random = fastrand::Rng::with_seed(5);
    for pair in 0..PAIRS {
        let client = link.connect();
        let server = link.accept();
        let (mut one, mut other) = if random.bool() { (client, server) } else { (server, client) };
        // After an odd number of bytes in total the next sender is the side that resets; after an
        // even number the program starts the join.
        other.write_all(b"!").expect("the first byte");
        one.read_exact(&mut [0]).expect("the first byte");
        for _ in 0..random.u32(1..3) {
            exchange(&mut one, &mut other);
        }
        one.write_all(&[7; 500]).expect("the last bytes");
        // This sleep varies the moment of the reset; it waits for no state.
        thread::sleep(Duration::from_micros(random.u64(0..600)));
        reset(one);
        assert_eq!(end_of(&mut other), End::Reset, "pair {pair}");
    }
    link.balance.assert_all_on_its_datapath(PAIRS);
}

/// The reset's sequence number is beyond what the other peer has received, and possibly beyond its
/// window.
#[test]
fn a_reset_after_lost_bytes_passes_through() {
    /// Enough pairs that some lose bytes: the program has granted one peer a larger window than the
    /// other peer has.
    const PAIRS: u64 = 100;

    if !kernel_works() {
        return;
    }
    let link = Link::new(Datapath::Splice);
    let mut random = fastrand::Rng::with_seed(7);
    for pair in 0..PAIRS {
        let (client, server) = link.pair();
        let (mut one, mut other) = if random.bool() { (client, server) } else { (server, client) };
        let listening = thread::spawn(move || end_of(&mut other));
        let (begin, time) = (Instant::now(), Duration::from_micros(random.u64(0..20_000)));
        while begin.elapsed() < time {
            one.write_all(&[7; 1400]).expect("writing");
        }
        reset(one);
        assert_eq!(listening.join().expect("an end"), End::Reset, "pair {pair}");
    }
}

#[test]
fn keepalive_detects_a_vanished_peer() {
    if !kernel_works() {
        return;
    }
    let cables = [Cable::observed(); 2];
    let Some(network) = Network::with(Topology::Apart, Family::V4, cables) else { return };
    for (name, value) in [("time", "1"), ("intvl", "1"), ("probes", "2")] {
        network.balancer().set(&format!("ipv4/tcp_keepalive_{name}"), value);
    }
    let link = Link::across(network, Builder::new(Datapath::Splice));
    let (mut client, mut server) = link.settled_pair();
    // Peers that answer probes may be silent.
    let before = link.network().left_for(Peer::Client).len();
    eventually(TIMEOUT, "the silent client has been asked", || {
        match link.network().left_for(Peer::Client).len() - before {
            asked @ 0..3 => Err(asked.to_string()),
            _ => Ok(()),
        }
    });
    exchange(&mut client, &mut server);
    link.network().peer(Peer::Client).ip("link set eth0 down");
    assert_eq!(end_of(&mut server), End::Reset);
    link.balance.assert_all_handed_over(1);
    let session = link.balance.sessions(1).remove(0);
    assert_eq!(session.end, "client: timed out");
}

#[test]
fn connections_that_both_peers_end_while_they_are_joined_end_clean() {
    if !kernel_works() {
        return;
    }
    const VISITS: usize = 2000;
    let builder = Builder::new(Datapath::Splice).offload_after(1);
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    let mut moments = fastrand::Rng::with_seed(17);
    for visit in 0..VISITS {
        let (mut client, mut server) = link.pair_after(3);
        // This sleep varies the moment of the end; it waits for no state.
        thread::sleep(Duration::from_micros(moments.u64(0..3000)));
        for stream in [&client, &server] {
            stream.shutdown(Shutdown::Write).expect("shutdown");
        }
        let ends = (end_of(&mut client), end_of(&mut server));
        assert_eq!(ends, (End::Clean, End::Clean), "visit {visit}");
    }
    let sessions = link.balance.sessions(VISITS);
    let spliced = sessions.iter().filter(|session| session.datapath == Datapath::Splice.name());
    let spliced = spliced.count();
    note(&format!("{spliced} of {VISITS} were spliced"));
    assert!(spliced > 0);
    let broken: Vec<_> = sessions.iter().filter(|session| session.end != "clean").collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn connections_that_end_while_they_are_joined_end_clean() {
    if !kernel_works() {
        return;
    }
    const VISITS: usize = 400;
    let server = Backend::echo("A");
    let builder = Builder::new(Datapath::Splice).offload_after(1);
    let balance = builder.channel(server.address()).start();
    for _ in 0..VISITS {
        let mut client = connect(balance.address());
        client.read_exact(&mut [0]).expect("the server's name");
        for _ in 0..3 {
            let mut back = [0; 3000];
            client.write_all(&[7; 3000]).expect("to the server");
            client.read_exact(&mut back).expect("from the server");
        }
        client.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut client), End::Clean);
    }
    let sessions = balance.sessions(VISITS);
    let spliced = sessions.iter().filter(|session| session.datapath == Datapath::Splice.name());
    note(&format!("{} of {VISITS} were spliced", spliced.count()));
    let stopped = balance.stop();
    assert_eq!(stopped.connections, VISITS as u64);
    assert_eq!(stopped.broken, 0);
}

/// During a join one peer gets fewer acknowledgements than the other has sent. A peer that is gone
/// by then, such as a client that resets when only its FIN is unacknowledged, does not retransmit.
#[test]
fn a_peer_gone_before_its_fin_is_acknowledged_leaves_no_session() {
    if !kernel_works() {
        return;
    }
    const VISITS: usize = 1000;
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let link = Link::across(network, Builder::new(Datapath::Splice));
    for visit in 0..VISITS {
        let (mut client, mut server) = link.pair_after(1);
        // The join happens in the middle of these writes.
        let pieces = 20 + visit % 50;
        for _ in 0..pieces {
            client.write_all(&[7; 300]).expect("to the server");
        }
        client.shutdown(Shutdown::Write).expect("shutdown");
        server.read_exact(&mut vec![0; pieces * 300]).expect("from the client");
        drop(server);
        assert_eq!(end_of(&mut client), End::Clean);
        reset(client);
    }
    let sessions = link.balance.sessions(VISITS);
    let spliced = sessions.iter().filter(|session| session.datapath == Datapath::Splice.name());
    note(&format!("{} of {VISITS} were spliced", spliced.count()));
}

#[test]
fn a_port_is_reused_as_soon_as_its_connection_is_over() {
    if !kernel_works() {
        return;
    }
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let link = Link::across(network, Builder::new(Datapath::Splice));
    let (listen_address, here) = (link.balance.address(), (Ipv4Addr::UNSPECIFIED, 0).into());
    let mut from: SocketAddr = here;
    let begin = Instant::now();
    for over in 0..5 {
        // Waits until the program has released the connection before.
        link.balance.sessions(over);
        let client = link.network().peer(Peer::Client).enter(|| connect_from(from, listen_address));
        from.set_port(client.local_addr().expect("getsockname").port());
        let (mut client, mut server) = link.settle(client);
        // The side that closes first keeps its addresses in TIME_WAIT, so the server closes first.
        server.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut client), End::Clean);
        drop(client);
        assert_eq!(end_of(&mut server), End::Clean);
    }
    // An unanswered SYN is retransmitted after a second.
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    link.balance.assert_all_handed_over(5);
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&from.into()).unwrap_or_else(|error| panic!("binding {from}: {error}"));
    socket.connect_timeout(&to.into(), TIMEOUT).expect("connecting to the program");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// The number after a name in the output of `stats`.
fn number(stats: &str, name: &str) -> Option<u64> {
    let line = stats.lines().find(|line| line.len() > 24 && line[..24].trim_end() == name)?;
    line[24..].trim().parse().ok()
}
