//! One endpoint of a TCP connection: sequence numbers, acknowledgements and windows.
//!
//! The endpoint answers as Linux does: it ignores the contents of a segment outside its window, and
//! of a segment that acknowledges bytes that were never sent.
//!
//! Invariant: an endpoint knows its own stream by positions from 0 on, which do not wrap, so
//! nothing here relies on the arithmetic under test.

extern crate std;

use super::super::segment::{Segment, flag};
use super::{Rng, byte};
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Ticks until the first retransmission.
const RETRANSMIT_TIMEOUT: u64 = 40;

/// How often the timeout doubles at most.
const MAX_BACKOFF: u32 = 4;

/// Ticks between two answers to packets without payload outside the window
/// (`tcp_invalid_ratelimit`). Without the limit two endpoints could answer each other for ever.
const ACK_RATE_LIMIT: u64 = 50;

/// A packet with its payload and its selective acknowledgements.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) head: Segment,
    pub(super) payload: Vec<u8>,
    pub(super) sack: Vec<(u32, u32)>,
    /// An attacker has sent it.
    pub(super) is_forged: bool,
}

/// How an endpoint handles the part of a segment beyond its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Accepts it, as Linux does if there is memory.
    Take,
    /// Cuts it off.
    Trim,
    /// Rejects the segment if unread bytes are buffered, as Linux does since 6.17.
    Refuse,
}

/// The parameters of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) mss: usize,
    pub(super) receive_buffer: usize,
    pub(super) send_buffer: usize,
    /// The most bytes in flight.
    pub(super) flight: usize,
    pub(super) scale: u8,
    pub(super) sack: bool,
    pub(super) excess: Excess,
    /// A window probe is a byte beyond the window, and not an old number.
    pub(super) probes_with_byte: bool,
}

/// One endpoint.
pub(super) struct Endpoint {
    config: Config,
    /// The peer whose bytes the endpoint receives.
    author: usize,
    first_out: u32,
    first_in: u32,
    their_scale: u8,

    pub(super) written: Vec<u8>,
    pub(super) ended: bool,
    pub(super) acknowledged: usize,
    pub(super) sent: usize,
    /// Position from which bytes are to be sent again.
    retransmit_from: Option<usize>,
    selected: BTreeSet<usize>,
    send_window: usize,
    max_send_window: usize,
    /// Position of the packet that last updated the send window.
    wl1: isize,
    duplicate_acks: u32,
    timer: Option<u64>,
    backoff: u32,

    pub(super) received: Vec<u8>,
    pub(super) fin_received: bool,
    pub(super) read: usize,
    pub(super) out_of_order: BTreeMap<usize, u8>,
    fin_at: Option<usize>,
    right_edge: usize,
    acked_in: usize,
    ack_pending: bool,
    answers_from: u64,

    /// Packets dropped because they acknowledge bytes that were never sent.
    pub(super) unsent_acks: u32,
    /// Packets to send.
    pub(super) out: Vec<Packet>,
}

/// The position of a sequence number near the position `near`.
fn position(first: u32, near: usize, number: u32) -> isize {
    let distance = number.wrapping_sub(first.wrapping_add(near as u32)) as i32;
    near as isize + distance as isize
}

impl Endpoint {
    pub(super) fn new(config: Config, author: usize, first_out: u32, first_in: u32) -> Self {
        let mut new = Endpoint {
            config,
            author,
            first_out,
            first_in,
            their_scale: 0,
            written: Vec::new(),
            ended: false,
            acknowledged: 0,
            sent: 0,
            retransmit_from: None,
            selected: BTreeSet::new(),
            send_window: 0,
            max_send_window: 0,
            wl1: 0,
            duplicate_acks: 0,
            timer: None,
            backoff: 0,
            received: Vec::new(),
            fin_received: false,
            read: 0,
            out_of_order: BTreeMap::new(),
            fin_at: None,
            right_edge: 0,
            acked_in: 0,
            ack_pending: false,
            answers_from: 0,
            unsent_acks: 0,
            out: Vec::new(),
        };
        new.window();
        new
    }

    /// Completes the handshake: the endpoint learns scale and window of the other.
    pub(super) fn shake_hands(&mut self, other: &Endpoint) {
        self.their_scale = other.config.scale;
        self.send_window = other.right_edge;
        self.max_send_window = other.right_edge;
    }

    pub(super) fn scale(&self) -> u8 {
        self.config.scale
    }

    /// Position behind everything that has arrived in order, FIN included.
    pub(super) fn arrived(&self) -> usize {
        self.received.len() + usize::from(self.fin_received)
    }

    /// Position behind everything that has been written, FIN included.
    pub(super) fn total(&self) -> usize {
        self.written.len() + usize::from(self.ended)
    }

    pub(super) fn seq_in(&self, position: usize) -> u32 {
        self.first_in.wrapping_add(position as u32)
    }

    pub(super) fn seq_out(&self, position: usize) -> u32 {
        self.first_out.wrapping_add(position as u32)
    }

    /// Position of the right edge of the send window.
    pub(super) fn send_window_edge(&self) -> usize {
        self.acknowledged + self.send_window
    }

    /// The largest send window so far.
    pub(super) fn max_send_window(&self) -> usize {
        self.max_send_window
    }

    /// An upper bound of [`offered_edge`](Self::offered_edge) until the application reads a byte
    /// beyond the present edge.
    pub(super) fn max_offered_edge(&self) -> usize {
        self.right_edge + self.max_receive_window()
    }

    /// Position of the right edge of the offered window.
    pub(super) fn offered_edge(&self) -> usize {
        self.right_edge
    }

    /// The largest distance of [`offered_edge`](Self::offered_edge) from what has arrived.
    pub(super) fn max_receive_window(&self) -> usize {
        self.config.receive_buffer + (1 << self.config.scale)
    }

    /// Position of the packet that last updated the send window.
    pub(super) fn wl1(&self) -> usize {
        self.wl1.max(0) as usize
    }

    /// Position of an acknowledgement number that this endpoint receives.
    pub(super) fn position_out(&self, number: u32) -> isize {
        position(self.first_out, self.acknowledged, number)
    }

    /// Whether bytes that were written are not acknowledged.
    pub(super) fn has_unacked(&self) -> bool {
        self.acknowledged < self.total()
    }

    /// How many bytes can be written.
    pub(super) fn can_write(&self) -> usize {
        self.config
            .send_buffer
            .saturating_sub(self.written.len() - self.acknowledged.min(self.written.len()))
    }

    /// Takes up to `most` bytes out of the receive buffer.
    pub(super) fn read(&mut self, most: usize) -> Vec<u8> {
        let from = self.read;
        self.read = self.received.len().min(from + most);
        let open = self.right_edge.saturating_sub(self.arrived());
        let free = self.config.receive_buffer.saturating_sub(self.received.len() - self.read);
        if self.read > from && free >= 2 * open && free >> self.config.scale > 0 {
            self.ack_pending = true;
        }
        self.received[from..self.read].to_vec()
    }

    /// The window field to send. The right edge never moves back.
    fn window(&mut self) -> u16 {
        let (next, unit) = (self.arrived(), 1 << self.config.scale);
        let free = self.config.receive_buffer.saturating_sub(self.received.len() - self.read);
        let mut window = free / unit;
        if next + window * unit < self.right_edge {
            window = (self.right_edge - next).div_ceil(unit);
        }
        let window = window.min(usize::from(u16::MAX));
        self.right_edge = self.right_edge.max(next + window * unit);
        self.acked_in = next;
        self.ack_pending = false;
        window as u16
    }

    /// Up to three runs of out-of-order bytes.
    fn blocks(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &at in self.out_of_order.keys().filter(|_| self.config.sack) {
            let count = runs.len();
            match runs.last_mut() {
                Some(run) if run.1 == at => run.1 += 1,
                _ if count == 3 => break,
                _ => runs.push((at, at + 1)),
            }
        }
        runs.iter().map(|&(from, to)| (self.seq_in(from), self.seq_in(to))).collect()
    }

    fn emit(&mut self, seq: u32, payload: Vec<u8>, flags: u8) {
        let head = Segment {
            seq,
            ack: self.seq_in(self.arrived()),
            len: payload.len() as u32,
            window: self.window(),
            flags: flags | flag::ACK,
        };
        let sack = self.blocks();
        self.out.push(Packet { head, payload, sack, is_forged: false });
    }

    /// Sends a bare acknowledgement. Its number is within the send window even if the window has
    /// shrunk by more than one unit of the scale (`tcp_acceptable_seq`).
    fn acknowledge(&mut self) {
        let limit = self.acknowledged + self.send_window;
        let slack = if self.config.probes_with_byte { 0 } else { 1 << self.config.scale };
        let at = if self.sent < limit + slack { self.sent } else { limit };
        self.emit(self.seq_out(at), Vec::new(), 0);
    }

    /// Sends the bytes between two positions.
    fn send(&mut self, from: usize, to: usize) {
        let len = self.written.len();
        let fin = if self.ended && to > len { flag::FIN } else { 0 };
        let payload = self.written[from.min(len)..to.min(len)].to_vec();
        self.emit(self.seq_out(from), payload, fin);
    }

    /// Sends everything that is due and that the window allows.
    pub(super) fn work(&mut self, now: u64, rng: &mut Rng) {
        if self.timer.is_some_and(|at| now >= at) {
            self.timer = None;
            self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
            self.on_timeout();
        }
        self.retransmit(rng);
        self.send_new();
        if self.ack_pending {
            self.acknowledge();
        }
        if !self.has_unacked() {
            self.timer = None;
        } else if self.timer.is_none() {
            self.timer = Some(now + (RETRANSMIT_TIMEOUT << self.backoff));
        }
    }

    /// The retransmission timer has expired.
    fn on_timeout(&mut self) {
        if self.acknowledged < self.sent {
            if self.selected.contains(&self.acknowledged) {
                // The other endpoint has discarded bytes that it had acknowledged selectively.
                self.selected.clear();
            }
            self.retransmit_from = Some(self.acknowledged);
        } else if self.config.probes_with_byte {
            self.send(self.sent, self.sent + 1);
            self.sent += 1;
        } else {
            self.emit(self.seq_out(self.acknowledged).wrapping_sub(1), Vec::new(), 0);
        }
    }

    /// Sends bytes again, in segments of other sizes than the first time.
    fn retransmit(&mut self, rng: &mut Rng) {
        let Some(at) = self.retransmit_from else { return };
        let mut at = at.max(self.acknowledged);
        let limit = self.acknowledged + self.send_window;
        while at < self.sent && (at < limit || at == self.acknowledged) {
            let most = (at + 1 + rng.below(2 * self.config.mss)).min(self.sent);
            let to = (at..most).find(|at| self.selected.contains(at)).unwrap_or(most);
            if to > at {
                self.send(at, to);
            }
            at = to.max(at + 1);
        }
        self.retransmit_from = None;
    }

    fn send_new(&mut self) {
        let limit = self.total().min(self.acknowledged + self.send_window.min(self.config.flight));
        while self.sent < limit {
            let to = limit.min(self.sent + self.config.mss);
            self.send(self.sent, to);
            self.sent = to;
        }
    }

    /// Receives a packet.
    pub(super) fn receive(&mut self, packet: &Packet, now: u64) {
        let head = &packet.head;
        let next = self.arrived();
        let at = position(self.first_in, next, head.seq);
        let end = at + head.seq_len() as isize;
        let right_edge = self.right_edge.max(next) as isize;
        if head.flags & flag::RST != 0 {
            assert_ne!(at, next as isize, "reset by an attacker");
        }
        if head.flags & (flag::RST | flag::SYN) != 0 {
            // A challenge ACK (RFC 5961, 3.2 and 4.2).
            self.answer(head, now);
            return;
        }
        if head.flags & flag::ACK == 0 {
            return;
        }
        let rejected = self.config.excess == Excess::Refuse && self.read < self.received.len();
        if end < self.acked_in as isize || at > right_edge || (end > right_edge && rejected) {
            self.answer(head, now);
        } else if self.process_ack(packet, at) && head.seq_len() > 0 {
            self.process_payload(packet, at, end, right_edge);
        }
    }

    fn answer(&mut self, head: &Segment, now: u64) {
        if head.seq_len() > 0 || now >= self.answers_from {
            self.answers_from = now + ACK_RATE_LIMIT;
            self.acknowledge();
        }
    }

    /// Processes acknowledgement and window of a packet. Returns whether the payload is processed.
    fn process_ack(&mut self, packet: &Packet, at: isize) -> bool {
        let head = &packet.head;
        let ack = self.position_out(head.ack);
        if ack > self.sent as isize {
            self.unsent_acks += 1;
            return false;
        }
        let oldest = self.acknowledged - self.max_send_window.min(self.acknowledged);
        if ack < oldest as isize {
            self.acknowledge();
            return false;
        }
        if ack < self.acknowledged as isize {
            return true;
        }
        let ack = ack as usize;
        let window = usize::from(head.window) << self.their_scale;
        let grows = window > self.send_window || window == 0;
        let updates = ack > self.acknowledged || at > self.wl1 || at == self.wl1 && grows;
        let repeated =
            ack == self.acknowledged && head.seq_len() == 0 && window == self.send_window;
        if updates {
            if self.send_window == 0 && window > 0 && self.config.probes_with_byte {
                self.retransmit_from = Some(ack);
            }
            self.send_window = window;
            self.wl1 = at;
            self.max_send_window = self.max_send_window.max(window);
        }
        if ack > self.acknowledged {
            self.acknowledged = ack;
            self.selected = self.selected.split_off(&ack);
            (self.timer, self.backoff, self.duplicate_acks) = (None, 0, 0);
        } else if repeated && self.sent > ack {
            self.on_duplicate_ack();
        }
        self.select(&packet.sack);
        true
    }

    /// Sends the first segment again after the third duplicate acknowledgement.
    fn on_duplicate_ack(&mut self) {
        self.duplicate_acks += 1;
        if self.duplicate_acks == 3 && !self.selected.contains(&self.acknowledged) {
            let to = self.sent.min(self.acknowledged + self.config.mss);
            self.send(self.acknowledged, to);
        }
    }

    fn select(&mut self, blocks: &[(u32, u32)]) {
        for &(from, to) in blocks {
            let (from, to) = (self.position_out(from), self.position_out(to));
            if from >= self.acknowledged as isize && to <= self.sent as isize {
                self.selected.extend(from as usize..to as usize);
            }
        }
    }

    /// Processes payload and FIN.
    fn process_payload(&mut self, packet: &Packet, at: isize, end: isize, right_edge: isize) {
        let next = self.arrived() as isize;
        if end <= next || at >= right_edge {
            self.acknowledge();
            return;
        }
        let last = if self.config.excess == Excess::Trim { right_edge.min(end) } else { end };
        for (&byte_is, at) in packet.payload.iter().zip(at..).filter(|&(_, at)| at < last) {
            let position = at as usize;
            if at >= 0 {
                assert_eq!(byte_is, byte(self.author, position), "byte {position} is wrong");
            }
            if at >= next {
                self.out_of_order.insert(position, byte_is);
            }
        }
        if packet.head.flags & flag::FIN != 0 && end <= last {
            self.fin_at = Some(end as usize - 1);
        }
        self.reassemble();
        self.ack_pending = true;
        if !self.out_of_order.is_empty() {
            self.acknowledge();
        }
    }

    fn reassemble(&mut self) {
        while let Some(byte) = self.out_of_order.remove(&self.received.len()) {
            self.received.push(byte);
        }
        self.fin_received |= self.fin_at == Some(self.received.len());
    }
}
