//! Whose packets reach the peers: the program's host's own, or each other's.
//!
//! They can be told apart because every host has its own time to live.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use tests::{
    Builder, Cable, Datapath, End, Family, Link, Network, PATIENCE, Packet, Peer, Topology, WHOLE,
    both_ways, end_of, eventually, note, on_all_datapaths,
};

fn packets_over_ipv4_are_those_of_who_says_so(datapath: Datapath) {
    watch(datapath, Family::V4);
}

fn packets_over_ipv6_are_those_of_who_says_so(datapath: Datapath) {
    watch(datapath, Family::V6);
}

/// Where client and server have one address, the two of each packet change places, and no sum over
/// them tells that. What our sockets had said when they were joined has to be acknowledged all the
/// same: else they say it again, and give up in the end.
fn nothing_is_said_again_to_peers_on_one_host(datapath: Datapath) {
    /// Longer than it takes until something not acknowledged is said again (TCP_RTO_MIN is 200 ms), and
    /// once more.
    const AGAIN: Duration = Duration::from_secs(1);
    const THEIRS: u8 = 99;

    let cables = [Cable::watched(); 2];
    let Some(network) = Network::with(Topology::Together, Family::V4, cables) else { return };
    network.set_ttl(Peer::Client, THEIRS);
    let link = Link::across(network, Builder::new(datapath));
    for turn in 1..=5 {
        let (client, server) = link.pair();
        // Joined while much is under way.
        both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE);
        let talk = |time| {
            let start = Instant::now();
            while start.elapsed() < time {
                say(&client, &server, 100);
                say(&server, &client, 100);
            }
        };
        talk(SETTLING);
        let mark = link.network().left_for(Peer::Client).len();
        talk(AGAIN);
        drop((client, server));
        let session = link.balance.sessions(turn).pop().expect("a session");
        if session.datapath == Datapath::Splice.name() {
            expect_ttl(THEIRS, &link.network().left_for(Peer::Client)[mark..]);
        }
    }
    link.balance.assert_all_handed_over(5);
}

on_all_datapaths!(
    nothing_is_said_again_to_peers_on_one_host,
    packets_over_ipv4_are_those_of_who_says_so,
    packets_over_ipv6_are_those_of_who_says_so,
);

/// What packets of the program's host begin with: the kernel's default.
const OWN: u8 = 64;

/// How long after a connection was made its packets may still be some of the host that was to take
/// it over: longer than a kernel holds an acknowledgement back (TCP_DELACK_MAX, 200 ms).
const SETTLING: Duration = Duration::from_millis(300);

/// A direction of the connection: who sends packets, with what time to live, and who gets them.
const DIRECTIONS: [(Peer, u8, Peer); 2] =
    [(Peer::Client, 99, Peer::Server), (Peer::Server, 77, Peer::Client)];

/// Watches a connection from its first packet to its last.
fn watch(datapath: Datapath, family: Family) {
    let cables = [Cable::watched(); 2];
    let Some(network) = Network::with(Topology::Apart, family, cables) else { return };
    for (peer, ttl, _) in DIRECTIONS {
        network.set_ttl(peer, ttl);
    }
    let link = Link::across(network, Builder::new(datapath));
    let (client, server) = link.pair();
    let mut lengths = fastrand::Rng::with_seed(17);
    let mut talk = |rounds| {
        for _ in 0..rounds {
            say(&client, &server, lengths.usize(1..4000));
            say(&server, &client, lengths.usize(1..4000));
        }
    };
    let start = Instant::now();
    talk(100);
    note(&format!("{datapath:?}: 100 requests and responses in {:?}", start.elapsed()));
    while start.elapsed() < SETTLING {
        talk(1);
    }
    // From here on each packet counts.
    let marks = DIRECTIONS.map(|(from, _, to)| {
        (link.network().arrived_from(from).len(), link.network().left_for(to).len())
    });
    talk(400);
    both_ways(&client, &server, (2 << 20, 2 << 20), WHOLE);
    for (from, to) in [(&client, &server), (&server, &client)] {
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut to.try_clone().expect("dup")), End::Clean);
    }
    drop((client, server));
    link.balance.assert_all_handed_over(1);
    let is_spliced = link.balance.sessions(1)[0].datapath == Datapath::Splice.name();
    for ((from, ttl, to), marks) in DIRECTIONS.into_iter().zip(marks) {
        match is_spliced {
            true => expect_forwarded(link.network(), (from, ttl, to), marks),
            false => expect_ttl(OWN, &link.network().left_for(to)),
        }
        expect_ttl(ttl, &link.network().arrived_from(from));
    }
}

/// Says `len` bytes, and hears them.
fn say(mut from: &TcpStream, mut to: &TcpStream, len: usize) {
    let mut got = vec![0; len];
    from.write_all(&vec![b'x'; len]).expect("writing");
    to.read_exact(&mut got).expect("reading");
    assert!(got.iter().all(|&byte| byte == b'x'), "other bytes than were sent");
}

/// Each packet that has left since is one that has arrived, as it was; and each that has arrived
/// has left, in its turn.
fn expect_forwarded(
    network: &Network,
    (from, ttl, to): (Peer, u8, Peer),
    (arrived, left): (usize, usize),
) {
    expect_ttl(ttl, &network.left_for(to)[left..]);
    eventually(PATIENCE, &format!("all packets from {from:?} have left for {to:?}"), || {
        let arrived = network.arrived_from(from).split_off(arrived);
        // What had arrived and not left may be before it.
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

/// There are packets, and all began with that time to live.
fn expect_ttl(ttl: u8, packets: &[Packet]) {
    note(&format!("{} packets with {ttl}", packets.len()));
    assert!(packets.len() > 500, "{} packets", packets.len());
    let strange = packets.iter().enumerate().filter(|(_, packet)| packet.ttl != ttl);
    let strange: Vec<_> = strange.collect();
    assert!(strange.is_empty(), "time to live is not {ttl}: {strange:?} of {}", packets.len());
}
