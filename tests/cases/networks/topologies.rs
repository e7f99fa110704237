//! Client, program and server on different hosts, or two of them on one host: all bytes arrive, and
//! each direction ends by itself.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use tests::{
    Builder, Cable, Datapath, End, Family, Link, Network, Pattern, Peer, Sending, TIMEOUT,
    Topology, WHOLE_CHUNKS, both_ways, end_of, eventually, exchange, note, on_all_datapaths,
    receive_all, reset, send,
};

fn hosts_apart_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::Apart, Family::V4);
}

fn hosts_apart_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::Apart, Family::V6);
}

fn hosts_behind_one_interface_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::OneInterface, Family::V4);
}

fn hosts_behind_one_interface_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::OneInterface, Family::V6);
}

fn peers_on_one_host_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::SharedPeerHost, Family::V4);
}

fn peers_on_one_host_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::SharedPeerHost, Family::V6);
}

fn a_server_on_the_programs_host_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ServerOnBalancer, Family::V4);
}

fn a_server_on_the_programs_host_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ServerOnBalancer, Family::V6);
}

fn a_server_on_the_programs_loopback_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ServerOnLoopback, Family::V4);
}

fn a_server_on_the_programs_loopback_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ServerOnLoopback, Family::V6);
}

fn a_client_on_the_programs_host_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ClientOnBalancer, Family::V4);
}

fn a_client_on_the_programs_host_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ClientOnBalancer, Family::V6);
}

fn a_window_that_was_full_opens_again(datapath: Datapath) {
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let link = Link::small_across(network, Builder::new(datapath));
    let mut one_by_one = link.small_pair();
    let mut at_once = link.small_pair();
    for (client, server) in [&mut one_by_one, &mut at_once] {
        (0..30).for_each(|_| exchange(client, server));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let (client, server) = &one_by_one;
            fill_and_empty(client, server);
            fill_and_empty(server, client);
        });
        let (client, server) = &at_once;
        scope.spawn(|| fill_and_empty(client, server));
        scope.spawn(|| fill_and_empty(server, client));
    });
    drop((one_by_one, at_once));
    link.balance.assert_all_handed_over(2);
}

fn a_path_mtu_below_the_interfaces_over_ipv4(datapath: Datapath) {
    narrow(datapath, Family::V4);
}

fn a_path_mtu_below_the_interfaces_over_ipv6(datapath: Datapath) {
    narrow(datapath, Family::V6);
}

/// The path to each peer has a router with a smaller MTU than the interfaces, and later with an
/// even smaller one.
fn narrow(datapath: Datapath, family: Family) {
    use Peer::{Client, Server};

    for (topology, narrow) in [
        (Topology::Apart, [Client, Server].as_slice()),
        (Topology::SharedPeerHost, &[Client]),
        (Topology::ServerOnBalancer, &[Client]),
        (Topology::ServerOnLoopback, &[Client]),
        (Topology::ClientOnBalancer, &[Server]),
    ] {
        let cables = [Cable::observed(); 2];
        let Some(network) = Network::with(topology, family, cables) else { return };
        let link = Link::across(network, Builder::new(datapath));
        let (client, server) = link.pair_after(30);
        for mtu in [1400, 1300] {
            narrow.iter().for_each(|&peer| link.network().set_path_mtu(peer, mtu));
            note(&format!("{topology:?}, {narrow:?}, {mtu} bytes"));
            both_ways(&client, &server, (1 << 19, 1 << 19), WHOLE_CHUNKS);
        }
        drop((client, server));
        link.balance.assert_all_handed_over(1);
    }
}

/// A client connects again from the same port, whichever way the last connection ended. In some
/// networks the program also has only one port towards the server.
fn a_port_is_reused_at_once(datapath: Datapath) {
    const TURNS: usize = 30;
    /// An unanswered SYN is retransmitted after a second.
    const AT_ONCE: Duration = Duration::from_millis(900);

    for (topology, family, is_short_of_ports) in [
        (Topology::Apart, Family::V4, false),
        (Topology::Apart, Family::V6, false),
        (Topology::Apart, Family::V4, true),
        (Topology::Apart, Family::V6, true),
        (Topology::ServerOnLoopback, Family::V4, false),
        (Topology::ClientOnBalancer, Family::V6, false),
    ] {
        let Some(network) = Network::new(topology, family) else { return };
        let link = Link::across(network, Builder::new(datapath));
        if is_short_of_ports {
            // Set only now, because the self-test needs more ports.
            link.network().balancer().set("ipv4/ip_local_port_range", "40000 40001");
        }
        let mut from = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        for turn in 0..TURNS {
            let what = format!("{topology:?}, {family:?}, {is_short_of_ports}, turn {turn}");
            let (client, begun) = link.as_client(|to| connect_from(from, to));
            from.set_port(client.local_addr().expect("getsockname").port());
            let (mut client, mut server) = link.pair_with(client, 1);
            assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
            (1..30).for_each(|_| exchange(&mut client, &mut server));
            match turn % 3 {
                0 => reset(client),
                1 => {
                    reset(server);
                    assert_eq!(end_of(&mut client), End::Reset, "{what}");
                }
                _ => {
                    server.shutdown(Shutdown::Write).expect("shutdown");
                    assert_eq!(end_of(&mut client), End::Clean, "{what}");
                }
            }
        }
    }
}

/// Connects; returns the time of the connect. Waits until the client's kernel has no old socket
/// with an unacknowledged FIN on these addresses.
fn connect_from(from: SocketAddr, to: SocketAddr) -> (TcpStream, Instant) {
    let (stream, begun) = eventually(TIMEOUT, "the old socket is gone", || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&from.into()).unwrap_or_else(|error| panic!("binding {from}: {error}"));
        let begun = Instant::now();
        match socket.connect_timeout(&to.into(), TIMEOUT) {
            Ok(()) => Ok((TcpStream::from(socket), begun)),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(error.to_string()),
            Err(error) => panic!("connecting to the program: {error}"),
        }
    });
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    (stream, begun)
}

on_all_datapaths!(
    hosts_apart_over_ipv4,
    hosts_apart_over_ipv6,
    hosts_behind_one_interface_over_ipv4,
    hosts_behind_one_interface_over_ipv6,
    peers_on_one_host_over_ipv4,
    peers_on_one_host_over_ipv6,
    a_server_on_the_programs_host_over_ipv4,
    a_server_on_the_programs_host_over_ipv6,
    a_server_on_the_programs_loopback_over_ipv4,
    a_server_on_the_programs_loopback_over_ipv6,
    a_client_on_the_programs_host_over_ipv4,
    a_client_on_the_programs_host_over_ipv6,
    a_window_that_was_full_opens_again,
    a_path_mtu_below_the_interfaces_over_ipv4,
    a_path_mtu_below_the_interfaces_over_ipv6,
    a_port_is_reused_at_once,
);

/// Moves data both ways at once, then ends one direction while the other continues.
fn converse(datapath: Datapath, topology: Topology, family: Family) {
    const SIZE: u64 = 8 << 20;
    // Enough exchanges that splicing has begun.
    const GREETING: u64 = 30;

    let Some(network) = Network::new(topology, family) else { return };
    let link = Link::across(network, Builder::new(datapath));
    for client_ends_first in [true, false] {
        let (client, server) = link.pair_after(GREETING);
        both_ways(&client, &server, (SIZE, SIZE + 1), WHOLE_CHUNKS);
        let (first, second) = match client_ends_first {
            true => (&client, &server),
            false => (&server, &client),
        };
        first.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut second.try_clone().expect("dup")), End::Clean);
        send_all_and_close(second, first, SIZE / 4);
    }
    link.balance.assert_all_handed_over(2);
    let stopped = link.balance.stop();
    assert_eq!((stopped.sent + stopped.rcvd), 2 * (2 * SIZE + 1 + SIZE / 4 + 2 * GREETING));
}

/// Sends `len` bytes and ends that direction; asserts that all bytes arrive.
fn send_all_and_close(from: &TcpStream, to: &TcpStream, len: u64) {
    thread::scope(|scope| {
        let got = scope.spawn(|| receive_all(to).expect("the last part"));
        let sent = send(from, Pattern::new(len, len), WHOLE_CHUNKS, |_| {}).expect("sending");
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(got.join().expect("the receiver"), sent);
    });
}

/// Fills the path until the sender stops; then reads everything.
fn fill_and_empty(from: &TcpStream, to: &TcpStream) {
    /// More than the whole path holds.
    const LEN: u64 = 48 << 20;

    let sending = Sending::start(from, LEN);
    let stopped = sending.wait_until_still();
    note(&format!("stopped after {stopped} of {LEN} bytes"));
    assert!(stopped < LEN, "the sender never stopped");
    assert_eq!(receive_all(to).expect("all bytes"), sending.finish());
}
