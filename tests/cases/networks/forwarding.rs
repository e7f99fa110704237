//! Which host created the packets that reach the peers.
//!
//! Packets of the balancer's own sockets have its TTL and DSCP. Packets that the splice program
//! forwards equal the packets that arrived, one by one.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use tests::{
    Builder, Cable, Datapath, End, Family, Link, Network, Packet, Peer, TIMEOUT, Topology,
    WHOLE_CHUNKS, both_ways, end_of, eventually, note, on_all_datapaths,
};

fn ipv4_packets_are_created_or_forwarded_unchanged(datapath: Datapath) {
    watch(datapath, Family::V4);
}

fn ipv6_packets_are_created_or_forwarded_unchanged(datapath: Datapath) {
    watch(datapath, Family::V6);
}

/// With client and server on one address, the program exchanges source and destination of each
/// packet, which does not change the checksum. The bytes that the program's sockets had sent before
/// the join must still be acknowledged; else the sockets retransmit and finally give up.
fn nothing_is_retransmitted_to_peers_on_one_host(datapath: Datapath) {
    /// Longer than two retransmission timeouts (TCP_RTO_MIN is 200 ms).
    const RETRANSMISSION: Duration = Duration::from_secs(1);
    let cables = [Cable::observed(); 2];
    let Some(network) = Network::with(Topology::SharedPeerHost, Family::V4, cables) else { return };
    let link = Link::across(network, Builder::new(datapath));
    for turn in 1..=5 {
        let (client, server) = link.pair();
        // Joined during a transfer.
        both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
        let exchange_for = |time| {
            let start = Instant::now();
            while start.elapsed() < time {
                transfer(&client, &server, 100);
                transfer(&server, &client, 100);
            }
        };
        exchange_for(SETTLING);
        let network = link.network();
        let (arrived, left) =
            (network.arrived_from(Peer::Client).len(), network.left_for(Peer::Client).len());
        exchange_for(RETRANSMISSION);
        drop((client, server));
        let session = link.balance.sessions(turn).pop().expect("a session");
        if session.datapath == Datapath::Splice.name() {
            expect_forwarded(link.network(), (Peer::Client, Peer::Client), (arrived, left));
        }
    }
    link.balance.assert_all_handed_over(5);
}

on_all_datapaths!(
    nothing_is_retransmitted_to_peers_on_one_host,
    ipv4_packets_are_created_or_forwarded_unchanged,
    ipv6_packets_are_created_or_forwarded_unchanged,
);

/// TTL of packets that the balancer's host creates: the kernel's default.
const OWN: u8 = 64;

/// How long after the start the balancer's own sockets may still send packets: longer than a
/// delayed acknowledgement (TCP_DELACK_MAX, 200 ms).
const SETTLING: Duration = Duration::from_millis(300);

/// Sender, TTL and receiver of each direction. The server's packets would not pass another router.
const DIRECTIONS: [(Peer, u8, Peer); 2] =
    [(Peer::Client, 99, Peer::Server), (Peer::Server, 1, Peer::Client)];

/// DSCP of the peers' packets (RFC 3246), as in the traffic class.
const EXPEDITED: u8 = 46 << 2;

/// ECN bits of the traffic class, and their value in an ECN-capable packet.
const ECN: u8 = 3;
const CAPABLE: u8 = 2;

/// Observes a connection from its first packet to its last.
fn watch(datapath: Datapath, family: Family) {
    let cables = [Cable::observed(); 2];
    let Some(network) = Network::with(Topology::Apart, family, cables) else { return };
    for (peer, ttl, _) in DIRECTIONS {
        network.set_ttl(peer, ttl);
    }
    for host in [network.peer(Peer::Client), network.balancer(), network.peer(Peer::Server)] {
        host.set("ipv4/tcp_ecn", "1");
    }
    let link = Link::across(network, Builder::new(datapath));
    let (client, server) = link.pair();
    for stream in [&client, &server] {
        let socket = SockRef::from(stream);
        match family {
            Family::V4 => socket.set_tos_v4(EXPEDITED.into()).expect("IP_TOS"),
            Family::V6 => socket.set_tclass_v6(EXPEDITED.into()).expect("IPV6_TCLASS"),
        }
    }
    let mut lengths = fastrand::Rng::with_seed(17);
    let mut exchange_for = |rounds| {
        for _ in 0..rounds {
            transfer(&client, &server, lengths.usize(1..4000));
            transfer(&server, &client, lengths.usize(1..4000));
        }
    };
    let start = Instant::now();
    exchange_for(100);
    note(&format!("{datapath:?}: 100 requests and responses in {:?}", start.elapsed()));
    while start.elapsed() < SETTLING {
        exchange_for(1);
    }
    // All packets from here on are compared.
    let marks = DIRECTIONS.map(|(from, _, to)| {
        (link.network().arrived_from(from).len(), link.network().left_for(to).len())
    });
    exchange_for(400);
    both_ways(&client, &server, (2 << 20, 2 << 20), WHOLE_CHUNKS);
    for (from, to) in [(&client, &server), (&server, &client)] {
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut to.try_clone().expect("dup")), End::Clean);
    }
    drop((client, server));
    link.balance.assert_all_handed_over(1);
    let is_spliced = link.balance.sessions(1)[0].datapath == Datapath::Splice.name();
    for ((from, ttl, to), marks) in DIRECTIONS.into_iter().zip(marks) {
        let (arrived, left) = (link.network().arrived_from(from), link.network().left_for(to));
        expect_head((ttl, EXPEDITED), &arrived[marks.0..]);
        expect_head((OWN, 0), &left[marks.1..]);
        if is_spliced {
            expect_forwarded(link.network(), (from, to), marks);
        }
    }
}

/// Sends `len` bytes from one end to the other.
fn transfer(mut from: &TcpStream, mut to: &TcpStream, len: usize) {
    let mut got = vec![0; len];
    from.write_all(&vec![b'x'; len]).expect("writing");
    to.read_exact(&mut got).expect("reading");
    assert!(got.iter().all(|&byte| byte == b'x'), "other bytes than were sent");
}

/// Asserts that the packets which left since equal the packets which arrived, in order.
fn expect_forwarded(network: &Network, (from, to): (Peer, Peer), (arrived, left): (usize, usize)) {
    assert!(network.left_for(to).len() > left + 500, "hardly anything has left");
    eventually(TIMEOUT, &format!("all packets from {from:?} have left for {to:?}"), || {
        let mut arrived = network.arrived_from(from).split_off(arrived);
        for packet in &mut arrived {
            (packet.ttl, packet.class) = (OWN, packet.class & ECN);
        }
        // Packets that had arrived before, and not yet left, may come first.
        let all_left = network.left_for(to);
        let last = &all_left[all_left.len().saturating_sub(arrived.len())..];
        match first_difference(&arrived, last) {
            None => Ok(()),
            Some(at) => Err(format!(
                "{at} of {}: {:?} arrived, {:?} left",
                arrived.len(),
                arrived.get(at),
                last.get(at)
            )),
        }
    });
}

fn first_difference(one: &[Packet], other: &[Packet]) -> Option<usize> {
    (0..one.len().max(other.len())).find(|&at| one.get(at) != other.get(at))
}

/// Asserts that there are packets, that all have this TTL and DSCP, and that some are ECN-capable.
fn expect_head((ttl, dscp): (u8, u8), packets: &[Packet]) {
    note(&format!("{} packets with {ttl}, {dscp}", packets.len()));
    assert!(packets.len() > 500, "{} packets", packets.len());
    let is_strange = |packet: &&Packet| (packet.ttl, packet.class & !ECN) != (ttl, dscp);
    let strange: Vec<_> = packets.iter().filter(is_strange).take(9).collect();
    assert!(strange.is_empty(), "not {ttl}, {dscp}: {strange:?} of {}", packets.len());
    assert!(packets.iter().any(|packet| packet.class & ECN == CAPABLE), "none may be marked");
}
