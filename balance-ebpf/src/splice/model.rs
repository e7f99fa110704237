//! A model of everything around `decide`: two peers, our two sockets, networks that lose, double
//! and delay, and user space that relays until it hands the connection over.
//!
//! An attacker may send anything to our sockets, knowing addresses and ports and no number.
//!
//! Invariant: chance comes from a seed alone, so that a run repeats; after `CALM` nothing is lost
//! any more, so that a run which does not end has found a standstill.

extern crate std;

mod endpoint;

use super::decide::decide;
use super::evidence::{StateUpdate, advance_local_max, is_near_local};
use super::segment::{Decision, Forward, LocalDelivery, Segment, flag};
use super::seq::{is_after, later};
use super::state::{Phase, SenderState, SideState};
use endpoint::{Endpoint, Excess, Habits, Packet};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

/// From this tick on the networks lose nothing.
const CALM: u64 = 4_000;

/// From this tick on the attacker stops, so that a run can end.
const ATTACKED: u64 = 1_500;

/// A run that makes no progress for so many ticks stands still. Timers are far shorter.
const STANDSTILL: u64 = 5_000;

/// For how long it is watched that nothing happens afterwards.
const AFTERWARDS: u64 = 800;

/// Numbers that look random.
pub(super) struct Chance(u64);

impl Chance {
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

/// The byte that a peer sends at a position.
pub(super) fn byte(author: usize, position: usize) -> u8 {
    let mixed = (position * 2 + author).wrapping_mul(0x9e37_79b1);
    (mixed >> 13) as u8
}

/// What a run is about; everything else comes from the seed.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    seed: u64,
    /// Bytes that each peer sends.
    lens: [usize; 2],
    /// Packets of a hundred that are lost.
    loss: usize,
    /// Packets of a hundred that arrive twice.
    doubled: usize,
    /// The most ticks that a packet travels.
    delay: usize,
    /// The most ticks between hook and local socket.
    queue: usize,
    /// When user space wants to hand over.
    begin: u64,
    /// A peer that reads nothing until it has written everything.
    stubborn: Option<usize>,
    /// User space hands over only if no window shrinks by it.
    careful: bool,
    /// Packets of an attacker in a hundred ticks, to each side.
    attack: usize,
}

/// How the application of a peer behaves.
struct Application {
    len: usize,
    writes: usize,
    reads: usize,
    /// It sleeps in every second stretch of so many ticks.
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

/// How far user space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Relaying,
    /// The entry is there, and the hook looks at what passes.
    Watching(u64),
    /// Relaying has stopped and the first cut-off is read.
    Reading(u64),
    /// Packets go through, since when.
    Opening(u64),
    /// What was left is being moved.
    Moving,
    Moved,
}

#[derive(Clone, Copy)]
enum Place {
    Peer(usize),
    Hook(usize),
}

struct World {
    scenario: Scenario,
    chance: Chance,
    now: u64,
    applications: [Application; 2],
    peers: [Endpoint; 2],
    sockets: [Endpoint; 2],
    wire: BTreeMap<(u64, u64), (Place, Packet)>,
    packets: u64,
    /// Between hook and local socket.
    queues: [VecDeque<(u64, Packet)>; 2],
    /// What user space has read from a socket and not yet written to the other.
    held: [Vec<u8>; 2],
    /// Bytes that user space moves in a tick.
    pace: usize,
    step: Step,
    phase: Phase,
    sides: [SideState; 2],
    /// From when on the local sockets must be silent.
    silent_from: Option<u64>,
    /// Numbers behind the FINs that were accepted, and whether they were acknowledged.
    fins: [Option<u32>; 2],
    ended: [bool; 2],
    /// User space has seen a number that is not the peer's, and does not hand over before that time.
    not_before: u64,
}

fn habits(chance: &mut Chance, sack: bool) -> Habits {
    let mss = chance.between(16, 100);
    let receive_buffer = chance.between(2 * mss, 20 * mss);
    Habits {
        mss,
        receive_buffer,
        send_buffer: chance.between(mss, 20 * mss),
        flight: chance.between(mss, 12 * mss),
        scale: chance.below(1 + receive_buffer.ilog2().saturating_sub(2) as usize) as u8,
        sack,
        excess: [Excess::Take, Excess::Trim, Excess::Refuse][chance.below(3)],
        probes_with_byte: chance.percent(30),
    }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut chance = Chance(scenario.seed);
        let sack = chance.percent(50);
        let mut firsts = [0; 4].map(|_| chance.next() as u32);
        if chance.percent(50) {
            // Wrap within the run.
            firsts = firsts.map(|first| (first % 6_000).wrapping_sub(5_000));
        }
        let small = scenario.careful || chance.percent(50);
        let mut ends = [(1, 0, 2), (0, 1, 3), (0, 2, 0), (1, 3, 1)].map(|(author, out, into)| {
            let mut habits = habits(&mut chance, sack);
            if small && out >= 2 {
                habits.receive_buffer = habits.receive_buffer.min(3 * habits.mss);
                habits.scale = habits.scale.min(2);
            }
            if small && out < 2 {
                habits.receive_buffer *= 4;
            }
            Endpoint::new(habits, author, firsts[out], firsts[into])
        });
        for (one, two) in [(0, 2), (1, 3)] {
            let (before, behind) = ends.split_at_mut(two);
            before[one].meet(&behind[0]);
            behind[0].meet(&before[one]);
        }
        let [p0, p1, s0, s1] = ends;
        let applications = [0, 1].map(|i| Application {
            len: scenario.lens[i],
            writes: chance.between(1, 300),
            reads: chance.between(2, 300),
            sleeps: [0, 0, chance.below(300) as u64][chance.below(3)],
            stubborn: scenario.stubborn == Some(i),
        });
        let pace = chance.between(1, 200);
        World {
            scenario,
            chance,
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

    /// Puts a packet on a network.
    fn post(&mut self, place: Place, packet: Packet) {
        let stormy = self.now < CALM;
        if stormy && self.chance.percent(self.scenario.loss) {
            return;
        }
        let copies = if stormy && self.chance.percent(self.scenario.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let due = self.now + self.chance.between(1, self.scenario.delay) as u64;
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
                (Place::Peer(i), packet) => self.reach_peer(i, &packet),
                (Place::Hook(i), packet) => self.pass_hook(i, packet),
            }
        }
        for i in 0..2 {
            while self.queues[i].front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, packet) = self.queues[i].pop_front().unwrap_or_default();
                self.reach_socket(i, &packet);
            }
        }
        for i in 0..2 {
            if self.now < ATTACKED && self.chance.percent(self.scenario.attack) {
                self.attack(i);
            }
        }
        self.user_space();
        if self.silent_from.is_none() && self.sides.iter().all(|side| side.drained) {
            // What is behind the hook still arrives, and is answered.
            self.silent_from = Some(self.now + self.scenario.queue as u64 + 2);
        }
        for i in 0..2 {
            self.applications[i].work(&mut self.peers[i], i, self.now);
            self.peers[i].work(self.now, &mut self.chance);
            self.sockets[i].work(self.now, &mut self.chance);
            for packet in core::mem::take(&mut self.peers[i].out) {
                self.post(Place::Hook(i), packet);
            }
            for packet in core::mem::take(&mut self.sockets[i].out) {
                let silent = self.silent_from.is_some_and(|from| self.now >= from);
                assert!(!silent, "a drained socket {i} sends {:?}", packet.head);
                self.post(Place::Peer(i), packet);
            }
        }
    }

    /// An attacker's packet changes nothing of what is known.
    fn attack(&mut self, i: usize) {
        let known = |world: &Self| {
            let sides = world.sides.map(|side| (side.sender, side.drained));
            (sides, world.fins, world.ended)
        };
        let before = known(self);
        let packet = self.forge();
        self.pass_hook(i, packet);
        assert_eq!(known(self), before, "an attacker is believed");
    }

    fn forge(&mut self) -> Packet {
        let mut number = || self.chance.next() as u32;
        let (seq, ack, window) = (number(), number(), number() as u16);
        // Mostly what is looked at most.
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
        let ack = peer.place_out(packet.head.ack);
        let arrived = self.sockets[i].arrived().max(self.peers[1 - i].arrived());
        let peer = &mut self.peers[i];
        assert!(ack <= peer.sent as isize, "peer {i} hears of {ack}, which it has not sent");
        assert!(ack <= arrived as isize, "peer {i} hears of {ack}, which has not arrived");
        for block in &packet.sack {
            assert!(peer.place_out(block.1) <= peer.sent as isize, "a block too far for peer {i}");
        }
        peer.receive(packet, self.now);
    }

    fn reach_socket(&mut self, i: usize, packet: &Packet) {
        let socket = &mut self.sockets[i];
        let before = (socket.arrived(), socket.ahead.len(), socket.unsent);
        socket.receive(packet, self.now);
        let after = (socket.arrived(), socket.ahead.len(), socket.unsent);
        if self.phase != Phase::Local {
            let has_judged = packet.is_forged || after.2 == before.2;
            assert!(has_judged, "socket {i} hears of what it has not sent: {:?}", packet.head);
        }
        if self.phase == Phase::Joined {
            assert_eq!(after, before, "socket {i} takes {:?} although joined", packet.head);
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

    /// What the program notes of an accepted packet.
    fn learn(&mut self, i: usize, packet: &Segment, forward: &Forward) {
        let (this, other) = (self.sides[i], self.sides[1 - i]);
        let news = StateUpdate::of(&this, &other, packet, forward);
        self.sides[i].sender.snd_nxt = later(this.sender.snd_nxt, news.end);
        let sender = &mut self.sides[1 - i].sender;
        sender.snd_una = SenderState::acknowledge(sender.snd_una, news.acked);
        sender.snd_nxt = later(sender.snd_nxt, sender.acked());
        sender.window_right_edge = later(sender.window_right_edge, news.window_right_edge);
        sender.max_window = sender.max_window.max(news.window);
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
            self.post(Place::Peer(1 - i), packet);
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

    /// Packets keep their order here.
    fn queue(&mut self, i: usize, packet: Packet) {
        let due = self.now + self.chance.below(self.scenario.queue + 1) as u64;
        let last = self.queues[i].back().map_or(0, |(due, _)| *due);
        self.queues[i].push_back((due.max(last), packet));
    }

    fn user_space(&mut self) {
        let wait = self.scenario.queue as u64 + 2;
        match self.step {
            Step::Relaying => {
                self.relay();
                if self.now >= self.scenario.begin {
                    for i in 0..2 {
                        self.read_cut(i);
                        self.sides[i].local_snd_nxt =
                            self.sockets[i].number_out(self.sockets[i].total());
                    }
                    self.step = Step::Watching(self.now);
                }
            }
            Step::Watching(since) => {
                if self.now < since + wait || !self.is_fit() || !self.has_seen_peers(wait) {
                    self.relay();
                } else {
                    self.read_cut(0);
                    self.step = Step::Reading(self.now + self.chance.below(4) as u64);
                }
            }
            Step::Reading(until) if self.now < until => {}
            Step::Reading(_) => self.open(),
            Step::Opening(since) => self.raise_cuts(since, wait),
            Step::Moving => {
                self.relay();
                self.check_moved();
            }
            Step::Moved => self.close_windows(),
        }
    }

    /// Once our sockets are silent the windows that they have offered are known.
    fn close_windows(&mut self) {
        if self.silent_from.is_none_or(|from| self.now < from) {
            return;
        }
        for i in 0..2 {
            let edge = self.sockets[i].number_in(self.sockets[i].promised());
            let sender = &mut self.sides[i].sender;
            if sender.right_edge_slack != 0 {
                sender.window_right_edge = later(sender.window_right_edge, edge);
                sender.right_edge_slack = 0;
            }
        }
    }

    /// Whether the sockets are such that a handover can begin. A peer whose largest window is
    /// nothing in the other scale would be sent nothing any more.
    fn is_fit(&self) -> bool {
        let [s0, s1] = &self.sockets;
        let scales = s0.most_room() >> s1.scale() > 0 && s1.most_room() >> s0.scale() > 0;
        scales
            && self.has_room()
            && [s0, s1].iter().all(|s| s.ahead.is_empty() && !s.over && !s.ended)
    }

    /// Whether the program has seen packets of both peers. What no peer can have sent is forgotten; the
    /// peer's own packets that were forgotten with it have arrived when `wait` is over.
    fn has_seen_peers(&mut self, wait: u64) -> bool {
        for i in 0..2 {
            let socket = &self.sockets[i];
            let most = socket.number_in(socket.promised() + 1);
            if is_after(self.sides[i].local_max_seq, most) {
                self.sides[i].local_max_seq = 0;
                self.not_before = self.now + wait;
            }
        }
        let seen = |i: usize| {
            let received = self.sockets[i].number_in(self.sockets[i].arrived());
            self.sides[i].local_max_seq != 0 && !is_after(received, self.sides[i].local_max_seq)
        };
        self.now >= self.not_before && seen(0) && seen(1)
    }

    /// Whether the peers have room for all that our sockets can still tell the other to have room
    /// for: then nobody is taken back what it was promised, and our sockets get rid of what they
    /// hold whatever the applications do.
    fn has_room(&self) -> bool {
        let room = |i: usize| self.sockets[1 - i].may_promise() <= self.sockets[i].room_ends();
        !self.scenario.careful || room(0) && room(1)
    }

    fn read_cut(&mut self, i: usize) {
        let socket = &self.sockets[i];
        self.sides[i].cutover_seq = socket.number_in(socket.arrived());
        self.sides[i].wl1_offset = socket.room_from().saturating_sub(socket.arrived()) as u32;
    }

    /// Sets the entry and lets packets through, both ways at once.
    fn open(&mut self) {
        self.read_cut(1);
        for i in 0..2 {
            let (from, to) = (&self.sockets[i], &self.sockets[1 - i]);
            let unread = from.arrived() - from.read + self.held[i].len();
            let copied = from.number_in(from.arrived()).wrapping_sub(unread as u32);
            let side = &mut self.sides[i];
            side.seq_delta = to.number_out(to.total()).wrapping_sub(copied);
            assert_eq!(side.seq_delta, to.number_out(0).wrapping_sub(from.number_in(0)));
            side.scale_in = self.peers[i].scale();
            side.scale_out = to.scale();
            let peer = &self.peers[i];
            side.ack_slack = (peer.most_room() / 2) as u32;
            let acked = to.number_out(to.acknowledged).wrapping_sub(side.seq_delta);
            side.sender = SenderState {
                window_right_edge: from.number_in(from.promised()),
                max_window: from.largest_window().max(to.most_room()) as u32,
                right_edge_slack: from.largest_window() as u32,
                ..SenderState::new(acked, side.cutover_seq)
            };
        }
        self.set_written();
        self.phase = Phase::Opening;
        self.step = Step::Opening(self.now);
    }

    /// What a socket will have written once the rest has been moved.
    fn set_written(&mut self) {
        for i in 0..2 {
            let other = &self.sides[1 - i];
            self.sides[i].local_snd_nxt = other.cutover_seq.wrapping_add(other.seq_delta);
        }
    }

    /// The cut-offs are final once all that the hook has let through has arrived, or once it must have, if
    /// something was refused.
    fn raise_cuts(&mut self, since: u64, wait: u64) {
        self.read_cut(0);
        self.read_cut(1);
        self.set_written();
        let have_arrived =
            self.sides.iter().all(|side| !is_after(side.local_max_seq, side.cutover_seq));
        if have_arrived || self.now >= since + wait {
            self.phase = Phase::Joined;
            self.step = Step::Moving;
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
            let over = source.over && source.read == source.received.len();
            self.sockets[1 - i].ended |= over && self.held[i].is_empty();
        }
    }

    fn check_moved(&mut self) {
        let all = |i: usize| {
            let (from, to) = (&self.sockets[i], &self.sockets[1 - i]);
            from.arrived() == to.total()
        };
        if !(all(0) && all(1)) {
            return;
        }
        for (side, socket) in self.sides.iter().zip(&self.sockets) {
            assert_eq!(side.local_snd_nxt, socket.number_out(socket.total()));
        }
        self.step = Step::Moved;
        // User space may see by itself that nothing is left to be acknowledged.
        if self.chance.percent(50) {
            for i in (0..2).filter(|&i| !self.sockets[i].is_busy()) {
                self.sides[i].drained = true;
            }
        }
    }

    /// Grows with all that takes a run nearer to its end, which bounds its length.
    fn progress(&self) -> usize {
        let ends = self.peers.iter().chain(&self.sockets);
        ends.map(|end| end.acknowledged + end.arrived() + end.read).sum()
    }

    fn is_done(&self) -> bool {
        let arrived = (0..2).all(|i| {
            let peer = &self.peers[1 - i];
            peer.arrived() == self.scenario.lens[i] + 1 && peer.read == peer.received.len()
        });
        let idle = self.peers.iter().chain(&self.sockets).all(|end| !end.is_busy());
        let moved = self.phase == Phase::Local || self.step == Step::Moved;
        arrived && idle && moved && self.wire.is_empty()
    }

    /// All that a standstill is to be understood from.
    fn story(&self) -> std::string::String {
        let ends = self.peers.iter().chain(&self.sockets).map(|end| {
            let waiting = end.received.len() - end.read;
            (end.acknowledged, end.sent, end.total(), end.arrived(), waiting, end.ahead.len())
        });
        let ends: Vec<_> = ends.collect();
        std::format!("{:?} {:?} {ends:?} {:?}", self.step, self.phase, self.sides)
    }
}

/// How a run went.
#[derive(Debug, Default)]
struct Outcome {
    joined: bool,
    drained: bool,
    /// Bytes that went from peer to peer, of both streams.
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
        assert!(world.now < since + STANDSTILL, "standstill: {}", world.story());
    }
    for _ in 0..AFTERWARDS {
        world.tick();
    }
    let drained = world.sides.iter().all(|side| side.drained);
    assert!(!drained || world.sockets.iter().all(|socket| !socket.is_busy()));
    let joined = world.phase == Phase::Joined;
    if joined {
        for (i, len) in scenario.lens.into_iter().enumerate() {
            // All has been counted, and both ends are known.
            let peer = &world.peers[i];
            assert_eq!(world.sides[i].sender.acked(), peer.number_out(len + 1), "peer {i}");
            assert!(world.ended[i] || world.sockets[i].over, "the end of peer {i} is not known");
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
        doubled in 0usize..10,
        delay in 1usize..12,
        queue in 0usize..5,
        begin in prop_oneof![Just(0u64), 0u64..40, 0u64..300],
        stubborn in prop_oneof![Just(None), Just(Some(0usize)), Just(Some(1))],
    ) -> Scenario {
        let careful = stubborn.is_some() || seed % 4 == 0;
        let attack = 0;
        Scenario { seed, lens, loss, doubled, delay, queue, begin, stubborn, careful, attack }
    }
}

proptest! {
    /// The model without a handover: what fails here is not the fault of `decide`.
    #[test]
    fn both_streams_arrive_if_user_space_relays_them(scenario in scenarios(30)) {
        run(Scenario { begin: u64::MAX, ..scenario });
    }

    #[test]
    fn both_streams_arrive_over_a_network_that_only_delays(scenario in scenarios(0)) {
        run(Scenario { doubled: 0, ..scenario });
    }

    #[test]
    fn both_streams_arrive_whatever_is_lost(scenario in scenarios(30)) {
        run(scenario);
    }

    /// What an attacker sends who does not see packets changes nothing, neither for the peers nor of
    /// what balance concludes.
    #[test]
    fn both_streams_arrive_whatever_an_attacker_sends(
        scenario in scenarios(5),
        attack in 1usize..60,
    ) {
        run(Scenario { attack, ..scenario });
    }

    /// One peer has nothing to say, or little, and ends early.
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

/// A model that never hands over would prove nothing.
#[test]
fn most_runs_hand_over_in_the_middle() {
    let outcomes = (0..60).map(|seed| {
        run(Scenario {
            seed,
            lens: [4_000, 4_000],
            loss: 3,
            doubled: 3,
            delay: 4,
            queue: 2,
            begin: 30,
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
