//! A model of everything around `decide`: two peers, two local sockets, networks that lose,
//! duplicate and delay packets, and user space that relays until it joins the connections.
//!
//! An attacker who knows addresses and ports, but no sequence number, may send any packet to the
//! local sockets.
//!
//! Invariants: all randomness comes from the seed, so a run can be repeated. After `LOSS_END` no
//! packet is lost, so a run that does not end has found a deadlock.

extern crate std;

mod endpoint;

use super::decide::decide;
use super::evidence::{StateUpdate, advance_local_max, is_near_local};
use super::segment::{Decision, Forward, LocalDelivery, Segment, flag};
use super::seq::{is_after, later};
use super::state::{Phase, SenderState, SideState};
use endpoint::{Config, Endpoint, Excess, Packet};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

/// From this tick on the networks lose no packet.
const LOSS_END: u64 = 4_000;

/// From this tick on the attacker sends nothing, so that a run can end.
const ATTACK_END: u64 = 1_500;

/// Ticks without progress after which a run counts as deadlocked. All timers are far shorter.
const DEADLOCK_TICKS: u64 = 5_000;

/// Ticks after the end of a run in which no packet may be sent.
const QUIET_TICKS: u64 = 800;

/// A pseudo-random number generator.
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// The byte of a peer's stream at a position.
pub(super) fn byte(author: usize, position: usize) -> u8 {
    let mixed = (position * 2 + author).wrapping_mul(0x9e37_79b1);
    (mixed >> 13) as u8
}

/// The parameters of a run. Everything else comes from the seed.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    seed: u64,
    /// Bytes that each peer sends.
    lens: [usize; 2],
    /// Lost packets, in percent.
    loss: usize,
    /// Duplicated packets, in percent.
    duplicated: usize,
    /// The longest delay of a packet, in ticks.
    delay: usize,
    /// The longest delay between hook and local socket, in ticks.
    queue: usize,
    /// The tick from which user space wants to join.
    join_at: u64,
    /// A peer that reads nothing until it has written everything.
    stubborn: Option<usize>,
    /// User space joins only if no window shrinks.
    careful: bool,
    /// Packets of the attacker in a hundred ticks, to each side.
    attack: usize,
}

/// The application of a peer.
struct Application {
    len: usize,
    writes: usize,
    reads: usize,
    /// The application sleeps in every second period of this length.
    sleeps: u64,
    stubborn: bool,
}

impl Application {
    fn work(&self, peer: &mut Endpoint, author: usize, now: u64) {
        let most = self.writes.min(peer.can_write()).min(self.len - peer.written.len());
        let from = peer.written.len();
        peer.written.extend((from..from + most).map(|at| byte(author, at)));
        peer.ended |= peer.written.len() == self.len;
        let sleeps = self.sleeps > 0 && (now / self.sleeps) % 2 == 1;
        if !sleeps && (!self.stubborn || peer.ended) {
            peer.read(self.reads);
        }
    }
}

/// The state of user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Relaying,
    /// The map has entries, and the hook observes packets.
    Observing(u64),
    /// Relaying has stopped, and the first cut-over was read.
    ReadingCutover(u64),
    /// Packets are forwarded, since this tick.
    Opening(u64),
    /// User space passes on the rest.
    PassingOn,
    Done,
}

#[derive(Clone, Copy)]
enum Destination {
    Peer(usize),
    Hook(usize),
}

struct World {
    scenario: Scenario,
    rng: Rng,
    now: u64,
    applications: [Application; 2],
    peers: [Endpoint; 2],
    sockets: [Endpoint; 2],
    wire: BTreeMap<(u64, u64), (Destination, Packet)>,
    packets: u64,
    /// Between hook and local socket.
    queues: [VecDeque<(u64, Packet)>; 2],
    /// Bytes that user space has read from a socket and not yet written to the other.
    held: [Vec<u8>; 2],
    /// Bytes that user space moves in a tick.
    pace: usize,
    step: Step,
    phase: Phase,
    sides: [SideState; 2],
    /// The tick from which the local sockets must be silent.
    silent_from: Option<u64>,
    /// Numbers behind the accepted FINs, and whether each was acknowledged.
    fins: [Option<u32>; 2],
    ended: [bool; 2],
    /// User space has seen a number that is not the peer's, and does not join before this tick.
    not_before: u64,
}

fn config(rng: &mut Rng, sack: bool) -> Config {
    let mss = rng.between(16, 100);
    let receive_buffer = rng.between(2 * mss, 20 * mss);
    Config {
        mss,
        receive_buffer,
        send_buffer: rng.between(mss, 20 * mss),
        flight: rng.between(mss, 12 * mss),
        scale: rng.below(1 + receive_buffer.ilog2().saturating_sub(2) as usize) as u8,
        sack,
        excess: [Excess::Take, Excess::Trim, Excess::Refuse][rng.below(3)],
        probes_with_byte: rng.percent(30),
    }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut rng = Rng(scenario.seed);
        let sack = rng.percent(50);
        let mut firsts = [0; 4].map(|_| rng.next() as u32);
        if rng.percent(50) {
            // Numbers that wrap within the run.
            firsts = firsts.map(|first| (first % 6_000).wrapping_sub(5_000));
        }
        let small = scenario.careful || rng.percent(50);
        let mut ends = [(1, 0, 2), (0, 1, 3), (0, 2, 0), (1, 3, 1)].map(|(author, out, into)| {
            let mut config = config(&mut rng, sack);
            if small && out >= 2 {
                config.receive_buffer = config.receive_buffer.min(3 * config.mss);
                config.scale = config.scale.min(2);
            }
            if small && out < 2 {
                config.receive_buffer *= 4;
            }
            Endpoint::new(config, author, firsts[out], firsts[into])
        });
        for (one, two) in [(0, 2), (1, 3)] {
            let (before, behind) = ends.split_at_mut(two);
            before[one].shake_hands(&behind[0]);
            behind[0].shake_hands(&before[one]);
        }
        let [p0, p1, s0, s1] = ends;
        let applications = [0, 1].map(|i| Application {
            len: scenario.lens[i],
            writes: rng.between(1, 300),
            reads: rng.between(2, 300),
            sleeps: [0, 0, rng.below(300) as u64][rng.below(3)],
            stubborn: scenario.stubborn == Some(i),
        });
        let pace = rng.between(1, 200);
        World {
            scenario,
            rng,
            now: 0,
            applications,
            peers: [p0, p1],
            sockets: [s0, s1],
            wire: BTreeMap::new(),
            packets: 0,
            queues: Default::default(),
            held: Default::default(),
            pace,
            step: Step::Relaying,
            phase: Phase::Local,
            sides: Default::default(),
            silent_from: None,
            fins: [None; 2],
            ended: [false; 2],
            not_before: 0,
        }
    }

    /// Sends a packet over a network.
    fn post(&mut self, place: Destination, packet: Packet) {
        let lossy = self.now < LOSS_END;
        if lossy && self.rng.percent(self.scenario.loss) {
            return;
        }
        let copies = if lossy && self.rng.percent(self.scenario.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            let due = self.now + self.rng.between(1, self.scenario.delay) as u64;
            self.packets += 1;
            self.wire.insert((due, self.packets), (place, packet.clone()));
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                (Destination::Peer(i), packet) => self.reach_peer(i, &packet),
                (Destination::Hook(i), packet) => self.pass_hook(i, packet),
            }
        }
        for i in 0..2 {
            while self.queues[i].front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, packet) = self.queues[i].pop_front().unwrap_or_default();
                self.reach_socket(i, &packet);
            }
        }
        for i in 0..2 {
            if self.now < ATTACK_END && self.rng.percent(self.scenario.attack) {
                self.attack(i);
            }
        }
        self.user_space();
        if self.silent_from.is_none() && self.sides.iter().all(|side| side.drained) {
            // Packets that have passed the hook still arrive, and are answered.
            self.silent_from = Some(self.now + self.scenario.queue as u64 + 2);
        }
        for i in 0..2 {
            self.applications[i].work(&mut self.peers[i], i, self.now);
            self.peers[i].work(self.now, &mut self.rng);
            self.sockets[i].work(self.now, &mut self.rng);
            for packet in core::mem::take(&mut self.peers[i].out) {
                self.post(Destination::Hook(i), packet);
            }
            for packet in core::mem::take(&mut self.sockets[i].out) {
                let silent = self.silent_from.is_some_and(|from| self.now >= from);
                assert!(!silent, "a drained socket {i} sends {:?}", packet.head);
                self.post(Destination::Peer(i), packet);
            }
        }
    }

    /// Sends an attacker's packet, which must change no state.
    fn attack(&mut self, i: usize) {
        let known = |world: &Self| {
            let sides = world.sides.map(|side| (side.sender, side.drained));
            (sides, world.fins, world.ended)
        };
        let before = known(self);
        let packet = self.forge();
        self.pass_hook(i, packet);
        assert_eq!(known(self), before, "an attacker has changed the state");
    }

    fn forge(&mut self) -> Packet {
        let mut number = || self.rng.next() as u32;
        let (seq, ack, window) = (number(), number(), number() as u16);
        // Mostly plain acknowledgements, which get the most checks.
        let flags = if number() % 2 == 0 { flag::ACK } else { number() as u8 };
        let len = if number() % 2 == 0 { 0 } else { number() % 60 };
        let payload = (0..len).map(|_| number() as u8).collect();
        let sack = if number() % 4 == 0 { Vec::from([(number(), number())]) } else { Vec::new() };
        Packet { head: Segment { seq, ack, len, window, flags }, payload, sack, is_forged: true }
    }

    fn reach_peer(&mut self, i: usize, packet: &Packet) {
        if packet.is_forged {
            self.peers[i].receive(packet, self.now);
            return;
        }
        let peer = &mut self.peers[i];
        let ack = peer.position_out(packet.head.ack);
        let arrived = self.sockets[i].arrived().max(self.peers[1 - i].arrived());
        let peer = &mut self.peers[i];
        assert!(
            ack <= peer.sent as isize,
            "peer {i} receives an acknowledgement of {ack}, which it has not sent"
        );
        assert!(
            ack <= arrived as isize,
            "peer {i} receives an acknowledgement of {ack}, which has not arrived"
        );
        for block in &packet.sack {
            assert!(
                peer.position_out(block.1) <= peer.sent as isize,
                "a block too far for peer {i}"
            );
        }
        peer.receive(packet, self.now);
    }

    fn reach_socket(&mut self, i: usize, packet: &Packet) {
        let socket = &mut self.sockets[i];
        let before = (socket.arrived(), socket.out_of_order.len(), socket.unsent_acks);
        socket.receive(packet, self.now);
        let after = (socket.arrived(), socket.out_of_order.len(), socket.unsent_acks);
        if self.phase != Phase::Local {
            let has_judged = packet.is_forged || after.2 == before.2;
            assert!(
                has_judged,
                "socket {i} receives an acknowledgement of unsent_acks bytes: {:?}",
                packet.head
            );
        }
        if self.phase == Phase::Joined {
            assert_eq!(after, before, "socket {i} accepts {:?} although joined", packet.head);
        }
    }

    /// The tc program.
    fn pass_hook(&mut self, i: usize, packet: Packet) {
        if self.phase == Phase::Local {
            if self.step != Step::Relaying && is_near_local(&self.sides[i], &packet.head) {
                self.sides[i].local_max_seq =
                    advance_local_max(self.sides[i].local_max_seq, &packet.head);
            }
            self.queue(i, packet);
            return;
        }
        let (this, other) = (&self.sides[i], &self.sides[1 - i]);
        let decision = decide(self.phase, this, other, &packet.head, true);
        if let (Some(forward), true) = (&decision.forward, decision.accepted) {
            self.learn(i, &packet.head, forward);
        }
        self.act(i, packet, &decision);
    }

    /// Updates the state from an accepted packet, as the program does.
    fn learn(&mut self, i: usize, packet: &Segment, forward: &Forward) {
        let (this, other) = (self.sides[i], self.sides[1 - i]);
        let update = StateUpdate::of(&this, &other, packet, forward);
        self.sides[i].sender.snd_nxt = later(this.sender.snd_nxt, update.end);
        let sender = &mut self.sides[1 - i].sender;
        sender.snd_una = SenderState::acknowledge(sender.snd_una, update.acked);
        sender.snd_nxt = later(sender.snd_nxt, sender.acked());
        sender.window_right_edge = later(sender.window_right_edge, update.window_right_edge);
        sender.max_window = sender.max_window.max(update.window);
        if packet.flags & flag::FIN != 0 {
            self.fins[i] = Some(packet.end());
        }
        self.ended[1 - i] |= self.fins[1 - i] == Some(self.sides[1 - i].sender.acked());
    }

    fn act(&mut self, i: usize, packet: Packet, decision: &Decision) {
        if let Some(to) = decision.forward {
            let mut packet = packet.clone();
            (packet.head.seq, packet.head.ack) = (to.seq, to.ack);
            packet.head.window = to.window;
            let by = self.sides[1 - i].seq_delta;
            for (from, to) in &mut packet.sack {
                (*from, *to) = (from.wrapping_sub(by), to.wrapping_sub(by));
            }
            if to.without_sack {
                packet.sack.clear();
            }
            self.post(Destination::Peer(1 - i), packet);
        }
        match decision.local {
            LocalDelivery::Nothing => {}
            LocalDelivery::Segment(ack) => {
                let mut packet = packet;
                packet.head.ack = ack;
                self.queue(i, packet);
            }
            LocalDelivery::AckOnly(seq, ack) => {
                let mut head = packet.head;
                (head.seq, head.ack, head.len) = (seq, ack, 0);
                head.flags &= !flag::FIN;
                self.queue(i, Packet { head, payload: Vec::new(), ..packet });
            }
        }
        if decision.drains {
            self.sides[i].drained = true;
        }
    }

    /// Queues a packet for the local socket, in order.
    fn queue(&mut self, i: usize, packet: Packet) {
        let due = self.now + self.rng.below(self.scenario.queue + 1) as u64;
        let last = self.queues[i].back().map_or(0, |(due, _)| *due);
        self.queues[i].push_back((due.max(last), packet));
    }

    fn user_space(&mut self) {
        let wait = self.scenario.queue as u64 + 2;
        match self.step {
            Step::Relaying => {
                self.relay();
                if self.now >= self.scenario.join_at {
                    for i in 0..2 {
                        self.read_cutover(i);
                        self.sides[i].local_snd_nxt =
                            self.sockets[i].seq_out(self.sockets[i].total());
                    }
                    self.step = Step::Observing(self.now);
                }
            }
            Step::Observing(since) => {
                if self.now < since + wait || !self.is_fit() || !self.has_seen_peers(wait) {
                    self.relay();
                } else {
                    self.read_cutover(0);
                    self.step = Step::ReadingCutover(self.now + self.rng.below(4) as u64);
                }
            }
            Step::ReadingCutover(until) if self.now < until => {}
            Step::ReadingCutover(_) => self.open(),
            Step::Opening(since) => self.raise_cutovers(since, wait),
            Step::PassingOn => {
                self.relay();
                self.check_passed_on();
            }
            Step::Done => self.close_windows(),
        }
    }

    /// Once the local sockets are silent, the windows that they have offered are final.
    fn close_windows(&mut self) {
        if self.silent_from.is_none_or(|from| self.now < from) {
            return;
        }
        for i in 0..2 {
            let edge = self.sockets[i].seq_in(self.sockets[i].offered_edge());
            let sender = &mut self.sides[i].sender;
            if sender.right_edge_slack != 0 {
                sender.window_right_edge = later(sender.window_right_edge, edge);
                sender.right_edge_slack = 0;
            }
        }
    }

    /// Whether the sockets allow a join. A peer whose largest window is less than one unit of the
    /// other scale would receive no byte any more.
    fn is_fit(&self) -> bool {
        let [s0, s1] = &self.sockets;
        let scales =
            s0.max_send_window() >> s1.scale() > 0 && s1.max_send_window() >> s0.scale() > 0;
        scales
            && self.has_room()
            && [s0, s1].iter().all(|s| s.out_of_order.is_empty() && !s.fin_received && !s.ended)
    }

    /// Whether the program has seen packets of both peers. A number that no peer can have sent is
    /// reset. The peer's own packets, whose number is lost with it, have arrived after `wait`.
    fn has_seen_peers(&mut self, wait: u64) -> bool {
        for i in 0..2 {
            let socket = &self.sockets[i];
            let most = socket.seq_in(socket.offered_edge() + 1);
            if is_after(self.sides[i].local_max_seq, most) {
                self.sides[i].local_max_seq = 0;
                self.not_before = self.now + wait;
            }
        }
        let seen = |i: usize| {
            let received = self.sockets[i].seq_in(self.sockets[i].arrived());
            self.sides[i].local_max_seq != 0 && !is_after(received, self.sides[i].local_max_seq)
        };
        self.now >= self.not_before && seen(0) && seen(1)
    }

    /// Whether each peer has room for every byte that the local sockets can still allow the other
    /// to send. Then no offered window shrinks, and the local sockets can send everything that they
    /// hold, whatever the applications do.
    fn has_room(&self) -> bool {
        let room =
            |i: usize| self.sockets[1 - i].max_offered_edge() <= self.sockets[i].send_window_edge();
        !self.scenario.careful || room(0) && room(1)
    }

    fn read_cutover(&mut self, i: usize) {
        let socket = &self.sockets[i];
        self.sides[i].cutover_seq = socket.seq_in(socket.arrived());
        self.sides[i].wl1_offset = socket.wl1().saturating_sub(socket.arrived()) as u32;
    }

    /// Sets the state and begins to forward, in both directions at once.
    fn open(&mut self) {
        self.read_cutover(1);
        for i in 0..2 {
            let (from, to) = (&self.sockets[i], &self.sockets[1 - i]);
            let unread = from.arrived() - from.read + self.held[i].len();
            let copied = from.seq_in(from.arrived()).wrapping_sub(unread as u32);
            let side = &mut self.sides[i];
            side.seq_delta = to.seq_out(to.total()).wrapping_sub(copied);
            assert_eq!(side.seq_delta, to.seq_out(0).wrapping_sub(from.seq_in(0)));
            side.scale_in = self.peers[i].scale();
            side.scale_out = to.scale();
            let peer = &self.peers[i];
            side.ack_slack = (peer.max_send_window() / 2) as u32;
            let acked = to.seq_out(to.acknowledged).wrapping_sub(side.seq_delta);
            side.sender = SenderState {
                window_right_edge: from.seq_in(from.offered_edge()),
                max_window: from.max_receive_window().max(to.max_send_window()) as u32,
                right_edge_slack: from.max_receive_window() as u32,
                ..SenderState::new(acked, side.cutover_seq)
            };
        }
        self.set_local_snd_nxt();
        self.phase = Phase::Opening;
        self.step = Step::Opening(self.now);
    }

    /// Sets the SND.NXT that the sockets will have once the rest has been passed on.
    fn set_local_snd_nxt(&mut self) {
        for i in 0..2 {
            let other = &self.sides[1 - i];
            self.sides[i].local_snd_nxt = other.cutover_seq.wrapping_add(other.seq_delta);
        }
    }

    /// Makes the cut-overs final once all packets that the hook let through have arrived. If a
    /// socket has rejected some, the time by which all must have arrived counts.
    fn raise_cutovers(&mut self, since: u64, wait: u64) {
        self.read_cutover(0);
        self.read_cutover(1);
        self.set_local_snd_nxt();
        let have_arrived =
            self.sides.iter().all(|side| !is_after(side.local_max_seq, side.cutover_seq));
        if have_arrived || self.now >= since + wait {
            self.phase = Phase::Joined;
            self.step = Step::PassingOn;
        }
    }

    fn relay(&mut self) {
        for i in 0..2 {
            let most = self.pace.saturating_sub(self.held[i].len());
            let bytes = self.sockets[i].read(most);
            self.held[i].extend(bytes);
            let target = &mut self.sockets[1 - i];
            let most = target.can_write().min(self.held[i].len());
            target.written.extend(self.held[i].drain(..most));
            let source = &self.sockets[i];
            let over = source.fin_received && source.read == source.received.len();
            self.sockets[1 - i].ended |= over && self.held[i].is_empty();
        }
    }

    fn check_passed_on(&mut self) {
        let all = |i: usize| {
            let (from, to) = (&self.sockets[i], &self.sockets[1 - i]);
            from.arrived() == to.total()
        };
        if !(all(0) && all(1)) {
            return;
        }
        for (side, socket) in self.sides.iter().zip(&self.sockets) {
            assert_eq!(side.local_snd_nxt, socket.seq_out(socket.total()));
        }
        self.step = Step::Done;
        // User space may find by itself that everything is acknowledged.
        if self.rng.percent(50) {
            for i in (0..2).filter(|&i| !self.sockets[i].has_unacked()) {
                self.sides[i].drained = true;
            }
        }
    }

    /// Grows with every step towards the end, and is bounded.
    fn progress(&self) -> usize {
        let ends = self.peers.iter().chain(&self.sockets);
        ends.map(|end| end.acknowledged + end.arrived() + end.read).sum()
    }

    fn is_done(&self) -> bool {
        let arrived = (0..2).all(|i| {
            let peer = &self.peers[1 - i];
            peer.arrived() == self.scenario.lens[i] + 1 && peer.read == peer.received.len()
        });
        let idle = self.peers.iter().chain(&self.sockets).all(|end| !end.has_unacked());
        let moved = self.phase == Phase::Local || self.step == Step::Done;
        arrived && idle && moved && self.wire.is_empty()
    }

    /// A dump of the state, to analyse a deadlock.
    fn dump(&self) -> std::string::String {
        let ends = self.peers.iter().chain(&self.sockets).map(|end| {
            let waiting = end.received.len() - end.read;
            (
                end.acknowledged,
                end.sent,
                end.total(),
                end.arrived(),
                waiting,
                end.out_of_order.len(),
            )
        });
        let ends: Vec<_> = ends.collect();
        std::format!("{:?} {:?} {ends:?} {:?}", self.step, self.phase, self.sides)
    }
}

/// The result of a run.
#[derive(Debug, Default)]
struct Outcome {
    joined: bool,
    drained: bool,
    /// Bytes of both streams that were forwarded from peer to peer.
    spliced: usize,
}

fn run(scenario: Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let (mut progress, mut since) = (0, 0);
    while !world.is_done() {
        world.tick();
        if world.progress() > progress {
            (progress, since) = (world.progress(), world.now);
        }
        assert!(world.now < since + DEADLOCK_TICKS, "deadlock: {}", world.dump());
    }
    for _ in 0..QUIET_TICKS {
        world.tick();
    }
    let drained = world.sides.iter().all(|side| side.drained);
    assert!(!drained || world.sockets.iter().all(|socket| !socket.has_unacked()));
    let joined = world.phase == Phase::Joined;
    if joined {
        for (i, len) in scenario.lens.into_iter().enumerate() {
            // Every byte is counted, and both FINs are known.
            let peer = &world.peers[i];
            assert_eq!(world.sides[i].sender.acked(), peer.seq_out(len + 1), "peer {i}");
            assert!(
                world.ended[i] || world.sockets[i].fin_received,
                "the FIN of peer {i} is not known"
            );
        }
    }
    let spliced = (0..2).map(|i| scenario.lens[i] + 1 - world.sockets[i].arrived()).sum();
    Outcome { joined, drained, spliced }
}

prop_compose! {
    fn scenarios(loss: usize)(
        seed in any::<u64>(),
        lens in prop::array::uniform2(prop_oneof![Just(0usize), 0usize..200, 0usize..5_000]),
        loss in prop_oneof![0..=loss.min(4), 0..=loss],
        duplicated in 0usize..10,
        delay in 1usize..12,
        queue in 0usize..5,
        join_at in prop_oneof![Just(0u64), 0u64..40, 0u64..300],
        stubborn in prop_oneof![Just(None), Just(Some(0usize)), Just(Some(1))],
    ) -> Scenario {
        let careful = stubborn.is_some() || seed % 4 == 0;
        let attack = 0;
        Scenario { seed, lens, loss, duplicated, delay, queue, join_at, stubborn, careful, attack }
    }
}

proptest! {
    /// The model without a join: what fails here is not the fault of `decide`.
    #[test]
    fn both_streams_arrive_if_user_space_relays_them(scenario in scenarios(30)) {
        run(Scenario { join_at: u64::MAX, ..scenario });
    }

    #[test]
    fn both_streams_arrive_over_a_network_that_only_delays(scenario in scenarios(0)) {
        run(Scenario { duplicated: 0, ..scenario });
    }

    #[test]
    fn both_streams_arrive_whatever_is_lost(scenario in scenarios(30)) {
        run(scenario);
    }

    /// The packets of an attacker who sees no packets change nothing, neither for the peers nor in
    /// balance's state.
    #[test]
    fn both_streams_arrive_whatever_an_attacker_sends(
        scenario in scenarios(5),
        attack in 1usize..60,
    ) {
        run(Scenario { attack, ..scenario });
    }

    /// One peer sends little or nothing, and ends early.
    #[test]
    fn one_direction_goes_on_when_the_other_has_ended(
        scenario in scenarios(10),
        short in 0usize..2,
        len in 0usize..300,
    ) {
        let mut lens = [5_000; 2];
        lens[short] = len;
        run(Scenario { lens, ..scenario });
    }
}

/// A model that never joins would prove nothing.
#[test]
fn most_runs_join_in_the_middle() {
    let outcomes = (0..60).map(|seed| {
        run(Scenario {
            seed,
            lens: [4_000, 4_000],
            loss: 3,
            duplicated: 3,
            delay: 4,
            queue: 2,
            join_at: 30,
            stubborn: None,
            careful: false,
            attack: 10,
        })
    });
    let outcomes: Vec<Outcome> = outcomes.collect();
    assert!(outcomes.iter().filter(|outcome| outcome.joined).count() > 40, "{outcomes:?}");
    assert!(outcomes.iter().filter(|outcome| outcome.drained).count() > 40, "{outcomes:?}");
    let spliced: usize = outcomes.iter().map(|outcome| outcome.spliced).sum();
    assert!(spliced > 60 * 8_000 / 3, "{spliced} bytes spliced");
}
