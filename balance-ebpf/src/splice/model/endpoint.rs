//! One end of a TCP connection, as far as sequence numbers, acknowledgements and windows go.
//!
//! It answers what Linux answers: a segment out of its window is not looked at further, neither is
//! one that acknowledges what was never sent. Invariant: it knows its own stream by positions from
//! 0 on, which do not wrap, so that nothing here relies on the arithmetic that is being tested.

extern crate std;

use super::super::segment::{Segment, flag};
use super::{Chance, byte};
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Ticks until something is sent again for the first time.
const PATIENCE: u64 = 40;

/// The most by which that doubles.
const MOST_DOUBLINGS: u32 = 4;

/// How often a packet without payload that is out of the window is answered
/// (`tcp_invalid_ratelimit`): else two ends could answer each other for ever.
const RARELY: u64 = 50;

/// A packet with what it carries.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) head: Segment,
    pub(super) payload: Vec<u8>,
    pub(super) sack: Vec<(u32, u32)>,
    /// An attacker has sent it.
    pub(super) is_forged: bool,
}

/// What an end does with the part of a segment that is behind its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Takes it, as Linux does if there is memory.
    Take,
    /// Cuts it off.
    Trim,
    /// Refuses the segment unless nothing waits to be read, as Linux does since 6.17.
    Refuse,
}

/// How an end behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    pub(super) mss: usize,
    pub(super) receive_buffer: usize,
    pub(super) send_buffer: usize,
    /// The most that is on its way at a time.
    pub(super) flight: usize,
    pub(super) scale: u8,
    pub(super) sack: bool,
    pub(super) excess: Excess,
    /// A closed window is probed by a byte behind it and not by an old number.
    pub(super) probes_with_byte: bool,
}

/// One end.
pub(super) struct Endpoint {
    habits: Habits,
    /// Whose bytes it receives.
    author: usize,
    first_out: u32,
    first_in: u32,
    their_scale: u8,

    pub(super) written: Vec<u8>,
    pub(super) ended: bool,
    pub(super) acknowledged: usize,
    pub(super) sent: usize,
    /// From where on things are being sent again.
    again: Option<usize>,
    selected: BTreeSet<usize>,
    room: usize,
    most_room: usize,
    /// From which position the last news about the room came.
    room_from: isize,
    repeats: u32,
    timer: Option<u64>,
    doublings: u32,

    pub(super) received: Vec<u8>,
    pub(super) over: bool,
    pub(super) read: usize,
    pub(super) ahead: BTreeMap<usize, u8>,
    fin_at: Option<usize>,
    edge: usize,
    told: usize,
    owes: bool,
    answers_from: u64,

    /// Packets dropped because they acknowledge what was never sent.
    pub(super) unsent: u32,
    /// What is to be put on the wire.
    pub(super) out: Vec<Packet>,
}

/// The position that `number` stands for, if it is near the position `near`.
fn place(first: u32, near: usize, number: u32) -> isize {
    let distance = number.wrapping_sub(first.wrapping_add(near as u32)) as i32;
    near as isize + distance as isize
}

impl Endpoint {
    pub(super) fn new(habits: Habits, author: usize, first_out: u32, first_in: u32) -> Self {
        let mut new = Endpoint {
            habits,
            author,
            first_out,
            first_in,
            their_scale: 0,
            written: Vec::new(),
            ended: false,
            acknowledged: 0,
            sent: 0,
            again: None,
            selected: BTreeSet::new(),
            room: 0,
            most_room: 0,
            room_from: 0,
            repeats: 0,
            timer: None,
            doublings: 0,
            received: Vec::new(),
            over: false,
            read: 0,
            ahead: BTreeMap::new(),
            fin_at: None,
            edge: 0,
            told: 0,
            owes: false,
            answers_from: 0,
            unsent: 0,
            out: Vec::new(),
        };
        new.window();
        new
    }

    /// Completes the handshake: both know scale and window of the other.
    pub(super) fn meet(&mut self, other: &Endpoint) {
        self.their_scale = other.habits.scale;
        self.room = other.edge;
        self.most_room = other.edge;
    }

    pub(super) fn scale(&self) -> u8 {
        self.habits.scale
    }

    /// Position behind what has arrived in order, the end included.
    pub(super) fn arrived(&self) -> usize {
        self.received.len() + usize::from(self.over)
    }

    /// Position behind what has been written, the end included.
    pub(super) fn total(&self) -> usize {
        self.written.len() + usize::from(self.ended)
    }

    pub(super) fn number_in(&self, position: usize) -> u32 {
        self.first_in.wrapping_add(position as u32)
    }

    pub(super) fn number_out(&self, position: usize) -> u32 {
        self.first_out.wrapping_add(position as u32)
    }

    /// Position up to which the other end has room.
    pub(super) fn room_ends(&self) -> usize {
        self.acknowledged + self.room
    }

    /// The most room that the other end was ever known to have.
    pub(super) fn most_room(&self) -> usize {
        self.most_room
    }

    /// Position up to which the other end may send, or may be told so before anything is read
    /// that has not been sent yet.
    pub(super) fn may_promise(&self) -> usize {
        self.edge + self.largest_window()
    }

    /// Position up to which the other end was told that it may send.
    pub(super) fn promised(&self) -> usize {
        self.edge
    }

    /// The most that [`promised`](Self::promised) can be ahead of what has arrived.
    pub(super) fn largest_window(&self) -> usize {
        self.habits.receive_buffer + (1 << self.habits.scale)
    }

    /// Position of the packet that last told how much room the other end has.
    pub(super) fn room_from(&self) -> usize {
        self.room_from.max(0) as usize
    }

    /// What an acknowledgement on its way to this end means.
    pub(super) fn place_out(&self, number: u32) -> isize {
        place(self.first_out, self.acknowledged, number)
    }

    /// Whether something is sent, or is to be sent, that has not been acknowledged.
    pub(super) fn is_busy(&self) -> bool {
        self.acknowledged < self.total()
    }

    /// How many bytes can be written.
    pub(super) fn can_write(&self) -> usize {
        self.habits
            .send_buffer
            .saturating_sub(self.written.len() - self.acknowledged.min(self.written.len()))
    }

    /// Takes up to `most` bytes out of the receive buffer.
    pub(super) fn read(&mut self, most: usize) -> Vec<u8> {
        let from = self.read;
        self.read = self.received.len().min(from + most);
        let open = self.edge.saturating_sub(self.arrived());
        let free = self.habits.receive_buffer.saturating_sub(self.received.len() - self.read);
        if self.read > from && free >= 2 * open && free >> self.habits.scale > 0 {
            self.owes = true;
        }
        self.received[from..self.read].to_vec()
    }

    /// The window to be told, which never goes back.
    fn window(&mut self) -> u16 {
        let (next, unit) = (self.arrived(), 1 << self.habits.scale);
        let free = self.habits.receive_buffer.saturating_sub(self.received.len() - self.read);
        let mut window = free / unit;
        if next + window * unit < self.edge {
            window = (self.edge - next).div_ceil(unit);
        }
        let window = window.min(usize::from(u16::MAX));
        self.edge = self.edge.max(next + window * unit);
        self.told = next;
        self.owes = false;
        window as u16
    }

    /// Up to three runs of what is ahead.
    fn blocks(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &at in self.ahead.keys().filter(|_| self.habits.sack) {
            let count = runs.len();
            match runs.last_mut() {
                Some(run) if run.1 == at => run.1 += 1,
                _ if count == 3 => break,
                _ => runs.push((at, at + 1)),
            }
        }
        runs.iter().map(|&(from, to)| (self.number_in(from), self.number_in(to))).collect()
    }

    fn emit(&mut self, seq: u32, payload: Vec<u8>, flags: u8) {
        let head = Segment {
            seq,
            ack: self.number_in(self.arrived()),
            len: payload.len() as u32,
            window: self.window(),
            flags: flags | flag::ACK,
        };
        let sack = self.blocks();
        self.out.push(Packet { head, payload, sack, is_forged: false });
    }

    /// An acknowledgement alone. Its number is within the other end's window even if that has
    /// shrunk by more than what a scale hides (`tcp_acceptable_seq`).
    fn acknowledge(&mut self) {
        let limit = self.acknowledged + self.room;
        let slack = if self.habits.probes_with_byte { 0 } else { 1 << self.habits.scale };
        let at = if self.sent < limit + slack { self.sent } else { limit };
        self.emit(self.number_out(at), Vec::new(), 0);
    }

    /// Sends what is between two positions.
    fn send(&mut self, from: usize, to: usize) {
        let len = self.written.len();
        let fin = if self.ended && to > len { flag::FIN } else { 0 };
        let payload = self.written[from.min(len)..to.min(len)].to_vec();
        self.emit(self.number_out(from), payload, fin);
    }

    /// Does what time and the other end allow.
    pub(super) fn work(&mut self, now: u64, chance: &mut Chance) {
        if self.timer.is_some_and(|at| now >= at) {
            self.timer = None;
            self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
            self.run_out();
        }
        self.send_again(chance);
        self.send_on();
        if self.owes {
            self.acknowledge();
        }
        if !self.is_busy() {
            self.timer = None;
        } else if self.timer.is_none() {
            self.timer = Some(now + (PATIENCE << self.doublings));
        }
    }

    /// Nothing was heard for too long.
    fn run_out(&mut self) {
        if self.acknowledged < self.sent {
            if self.selected.contains(&self.acknowledged) {
                // The other end has thrown away what it had said to have.
                self.selected.clear();
            }
            self.again = Some(self.acknowledged);
        } else if self.habits.probes_with_byte {
            self.send(self.sent, self.sent + 1);
            self.sent += 1;
        } else {
            self.emit(self.number_out(self.acknowledged).wrapping_sub(1), Vec::new(), 0);
        }
    }

    /// Cuts what is sent again differently than the first time.
    fn send_again(&mut self, chance: &mut Chance) {
        let Some(at) = self.again else { return };
        let mut at = at.max(self.acknowledged);
        let limit = self.acknowledged + self.room;
        while at < self.sent && (at < limit || at == self.acknowledged) {
            let most = (at + 1 + chance.below(2 * self.habits.mss)).min(self.sent);
            let to = (at..most).find(|at| self.selected.contains(at)).unwrap_or(most);
            if to > at {
                self.send(at, to);
            }
            at = to.max(at + 1);
        }
        self.again = None;
    }

    fn send_on(&mut self) {
        let limit = self.total().min(self.acknowledged + self.room.min(self.habits.flight));
        while self.sent < limit {
            let to = limit.min(self.sent + self.habits.mss);
            self.send(self.sent, to);
            self.sent = to;
        }
    }

    /// Takes a packet.
    pub(super) fn receive(&mut self, packet: &Packet, now: u64) {
        let head = &packet.head;
        let next = self.arrived();
        let at = place(self.first_in, next, head.seq);
        let end = at + head.seq_len() as isize;
        let edge = self.edge.max(next) as isize;
        if head.flags & flag::RST != 0 {
            assert_ne!(at, next as isize, "reset by a stranger");
        }
        if head.flags & (flag::RST | flag::SYN) != 0 {
            // A challenge (RFC 5961, 3.2 and 4.2).
            self.answer(head, now);
            return;
        }
        if head.flags & flag::ACK == 0 {
            return;
        }
        let refused = self.habits.excess == Excess::Refuse && self.read < self.received.len();
        if end < self.told as isize || at > edge || (end > edge && refused) {
            self.answer(head, now);
        } else if self.hear(packet, at) && head.seq_len() > 0 {
            self.take(packet, at, end, edge);
        }
    }

    fn answer(&mut self, head: &Segment, now: u64) {
        if head.seq_len() > 0 || now >= self.answers_from {
            self.answers_from = now + RARELY;
            self.acknowledge();
        }
    }

    /// The acknowledgement and the window of a packet; whether the rest is to be looked at.
    fn hear(&mut self, packet: &Packet, at: isize) -> bool {
        let head = &packet.head;
        let ack = self.place_out(head.ack);
        if ack > self.sent as isize {
            self.unsent += 1;
            return false;
        }
        let oldest = self.acknowledged - self.most_room.min(self.acknowledged);
        if ack < oldest as isize {
            self.acknowledge();
            return false;
        }
        if ack < self.acknowledged as isize {
            return true;
        }
        let ack = ack as usize;
        let window = usize::from(head.window) << self.their_scale;
        let grows = window > self.room || window == 0;
        let news = ack > self.acknowledged || at > self.room_from || at == self.room_from && grows;
        let repeated = ack == self.acknowledged && head.seq_len() == 0 && window == self.room;
        if news {
            if self.room == 0 && window > 0 && self.habits.probes_with_byte {
                self.again = Some(ack);
            }
            self.room = window;
            self.room_from = at;
            self.most_room = self.most_room.max(window);
        }
        if ack > self.acknowledged {
            self.acknowledged = ack;
            self.selected = self.selected.split_off(&ack);
            (self.timer, self.doublings, self.repeats) = (None, 0, 0);
        } else if repeated && self.sent > ack {
            self.repeat();
        }
        self.select(&packet.sack);
        true
    }

    /// The third repeated acknowledgement asks for the first segment.
    fn repeat(&mut self) {
        self.repeats += 1;
        if self.repeats == 3 && !self.selected.contains(&self.acknowledged) {
            let to = self.sent.min(self.acknowledged + self.habits.mss);
            self.send(self.acknowledged, to);
        }
    }

    fn select(&mut self, blocks: &[(u32, u32)]) {
        for &(from, to) in blocks {
            let (from, to) = (self.place_out(from), self.place_out(to));
            if from >= self.acknowledged as isize && to <= self.sent as isize {
                self.selected.extend(from as usize..to as usize);
            }
        }
    }

    /// The payload and the end.
    fn take(&mut self, packet: &Packet, at: isize, end: isize, edge: isize) {
        let next = self.arrived() as isize;
        if end <= next || at >= edge {
            self.acknowledge();
            return;
        }
        let last = if self.habits.excess == Excess::Trim { edge.min(end) } else { end };
        for (&byte_is, at) in packet.payload.iter().zip(at..).filter(|&(_, at)| at < last) {
            let position = at as usize;
            if at >= 0 {
                assert_eq!(byte_is, byte(self.author, position), "byte {position} is wrong");
            }
            if at >= next {
                self.ahead.insert(position, byte_is);
            }
        }
        if packet.head.flags & flag::FIN != 0 && end <= last {
            self.fin_at = Some(end as usize - 1);
        }
        self.line_up();
        self.owes = true;
        if !self.ahead.is_empty() {
            self.acknowledge();
        }
    }

    fn line_up(&mut self) {
        while let Some(byte) = self.ahead.remove(&self.received.len()) {
            self.received.push(byte);
        }
        self.over |= self.fin_at == Some(self.received.len());
    }
}
