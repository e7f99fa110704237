//! Attacks at the moments when the program knows least of a connection: while it joins the two
//! sides, after the join and before the first byte, and while nothing is sent.
//!
//! Invariant: each function returns all harm, and none where there was none.

use std::{
    io::{ErrorKind, Read as _},
    thread,
    time::{Duration, Instant},
};

use super::{
    attack_thread::BackgroundAttack,
    kind::AttackKind,
    packet::{AddressPair, AttackPacket},
    scene::{Scene, SceneConfig},
    sender::Sender,
    victim::{KnownPair, Victim},
};
use crate::Peer;

/// The harm that an attack did to a number of connections.
#[derive(Clone, Debug)]
pub struct HarmReport {
    /// Attacked connections.
    pub connections: usize,
    /// Connections that ran on the requested datapath.
    pub carried: usize,
    /// Packets sent.
    pub packets: u64,
    /// One description for each harmed connection.
    pub wrong: Vec<String>,
}

/// Attacks connections from before their start until their end, with the address pairs known as
/// soon as they exist.
pub fn during_join(
    config: SceneConfig,
    kind: AttackKind,
    connections: usize,
) -> Option<HarmReport> {
    let scene = Scene::new(config)?;
    let listen_address = scene.address();
    let attack_thread = BackgroundAttack::start(scene.network(), kind, Vec::new(), None);
    let mut report = HarmReport { connections, carried: 0, packets: 0, wrong: Vec::new() };
    for number in 0..connections {
        let client = scene.link.connect_after(|own| {
            attack_thread.aim(vec![AddressPair { from: own, to: listen_address }]);
        });
        let server = match scene.link.try_accept() {
            Ok(server) => server,
            Err(error) => {
                report.wrong.push(format!("not connected: {error}"));
                continue;
            }
        };
        let mut victim = Victim::new(client, server, 0);
        attack_thread.aim(victim.pairs(KnownPair::Both).expect("the pairs"));
        let client = victim.client();
        // The join happens in the middle of a transfer, or between requests.
        let begun = if number % 2 == 0 { victim.transfer(100_000) } else { Ok(()) };
        let lived = begun.and_then(|()| (0..10).try_for_each(|_| victim.exchange(0, 3000)));
        let lived = lived.and_then(|()| victim.transfer(100_000)).and_then(|()| scene.end(victim));
        report.wrong.extend(lived.err());
        let session = scene.session(client);
        report.carried += usize::from(session.is_ok_and(|s| s.datapath == config.datapath.name()));
    }
    report.packets = attack_thread.sent();
    drop(attack_thread);
    Some(report)
}

/// Number of pieces of a banner, and how long the program may take to hand the connection over
/// after each.
const PIECES: usize = 50;
const PIECE_TIMEOUT: Duration = Duration::from_millis(60);

/// Sends `packets` packets with random timestamps to each connection, which has been silent since
/// the join; then the peer sends that was silent before.
pub fn before_the_first_byte(
    config: SceneConfig,
    connections: usize,
    packets: usize,
    speaks_first: Peer,
) -> Option<HarmReport> {
    let scene = Scene::new(config)?;
    let mut report = HarmReport { connections, carried: 0, packets: 0, wrong: Vec::new() };
    let first = speaks_first as usize;
    let mut random = fastrand::Rng::with_seed(11);
    let to = scene.address();
    let mut sender =
        scene.network().off_path_host().enter(move || Sender::new(to)).expect("a socket");
    for _ in 0..connections {
        let client = scene.link.connect_after(|_| {});
        let mut victim = Victim::new(client, scene.link.accept(), 0);
        // The banner comes in pieces until the program has seen packets of both peers; no further
        // piece follows.
        let mut is_carried = false;
        for _ in 0..PIECES {
            if let Err(error) = victim.send_from(first, 10) {
                report.wrong.push(error);
            }
            is_carried = scene.is_carried_within(&victim, PIECE_TIMEOUT);
            if is_carried {
                break;
            }
        }
        report.carried += usize::from(is_carried);
        let pairs = victim.pairs(KnownPair::Both).expect("the pairs");
        let packets_out: Vec<_> = (0..packets)
            .map(|turn| {
                let pair = pairs[(turn + 1 + first) % 2];
                let shot = AttackPacket::new(pair, random.u32(..), random.u32(..));
                AttackPacket { stamps: Some([random.u32(..), random.u32(..)]), ..shot }
            })
            .collect();
        sender.send(&packets_out).expect("sending packets");
        report.packets += packets_out.len() as u64;
        let spoken = victim.exchange(1 - first, 100).and_then(|()| victim.transfer(100_000));
        let lived = spoken.and_then(|()| scene.counts(&victim)).and_then(|()| scene.end(victim));
        report.wrong.extend(lived.err());
        if report.wrong.len() > 3 {
            break;
        }
    }
    Some(report)
}

/// How long after the idle timeout a connection may end.
const LATE: Duration = Duration::from_secs(4);

/// Attacks a silent connection, which must still end at the idle timeout of `config`.
pub fn while_idle(
    config: SceneConfig,
    kind: AttackKind,
    known: KnownPair,
) -> Option<Result<(), String>> {
    let scene = Scene::new(config)?;
    let victim = scene.victim();
    let limit = Duration::from_secs(config.idle.expect("an idle timeout").into());
    let pairs = victim.pairs(known).expect("the pairs");
    let attack_thread = BackgroundAttack::start(scene.network(), kind, pairs, Some(20_000));
    let begun = Instant::now();
    // Both peers are notified, whatever sequence numbers the attack has used.
    for end in [0, 1] {
        while victim.end_stands(end).is_ok() {
            if begun.elapsed() > limit + LATE {
                return Some(Err(format!("end {end} is still open after {:?}", begun.elapsed())));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    let took = begun.elapsed();
    drop(attack_thread);
    let (client, carried) = (victim.client(), victim.carried);
    drop(victim);
    Some(scene.session(client).and_then(|session| {
        let is_right = [session.sent, session.rcvd] == carried && took >= limit / 2;
        if is_right { Ok(()) } else { Err(format!("{carried:?} passed, {took:?}: {session:?}")) }
    }))
}

/// Attacks a connection whose client has vanished, which keepalive must still detect.
pub fn with_vanished_client(config: SceneConfig, kind: AttackKind) -> Option<Result<(), String>> {
    let scene = Scene::prepared(config, |network| {
        for (name, value) in [("time", "1"), ("intvl", "1"), ("probes", "2")] {
            network.balancer().set(&format!("ipv4/tcp_keepalive_{name}"), value);
        }
    })?;
    let mut victim = scene.victim();
    scene.vanish(Peer::Client);
    let pairs = victim.pairs(KnownPair::Client).expect("the pairs");
    let _barrage = BackgroundAttack::start(scene.network(), kind, pairs, Some(2000));
    // Three seconds of keepalive, and time for the reset to arrive.
    Some(match victim.ends[1].read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err("the server was not reset within ten seconds".to_owned())
        }
        other => Err(format!("the server got {other:?}")),
    })
}
