//! Draws plans: the probabilities of events, and the sizes.
//!
//! Invariant: every draw uses the one generator of the plan, in a fixed order.

use std::time::Duration;

use fastrand::Rng;

use super::{Act, Break, Ending, Moment, Plan, ReadPause, Reception, Script};

/// Sizes at which behaviour changes: a segment, a pipe, a buffer, a page, the GSO maximum.
const EDGES: [u64; 7] = [1448, 4096, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20];

/// Draws the plan of a scenario.
pub(super) fn plan(seed: u64, number: u64) -> Plan {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    let reception = match random.u32(0..100) {
        0..92 => Reception::Served,
        92..96 => Reception::Failover,
        96..98 => Reception::AllDown,
        _ => Reception::DiesBeforeAccept,
    };
    let mut draw = Draw { random, sides: <[Script; 2]>::default(), sent: [0; 2] };
    for _ in 0..draw.random.u32(0..4) {
        match draw.random.u32(0..10) {
            0..6 => draw.dialogue(),
            6..9 => draw.burst(),
            _ => draw.urgent(),
        }
    }
    draw.ends();
    draw.read_pauses();
    draw.breaks();
    let [mut client, mut backend] = draw.sides;
    if reception == Reception::AllDown {
        // Without a backend the time of a break is unknown, and no bytes arrive that could stay
        // unread.
        client.breaks = None;
        client.read_pauses.clear();
        backend.read_pauses.clear();
    }
    Plan { seed, number, reception, client, backend }
}

struct Draw {
    random: Rng,
    sides: [Script; 2],
    /// Bytes that each side has planned to send.
    sent: [u64; 2],
}

impl Draw {
    fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.random.u32(0..100) < of_a_hundred
    }

    fn side(&mut self) -> usize {
        self.random.usize(0..2)
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.random.u64(0..=most * 1000))
    }

    /// Mostly small, often next to an edge, sometimes several MiB.
    fn size(&mut self) -> u64 {
        match self.random.u32(0..20) {
            0 => 0,
            1 | 2 => 1,
            3..9 => self.random.u64(1..5000),
            9..13 => self.random.choice(EDGES).expect("some") - 1 + self.random.u64(0..3),
            13..18 => self.random.u64(1..200_000),
            _ => self.random.u64(1..4 << 20),
        }
    }

    fn write(&mut self, bytes: u64) -> u32 {
        let most = match self.random.u32(0..4) {
            0 => self.random.u64(1..1500),
            1 => self.random.u64(1..20_000),
            _ => 256 << 10,
        };
        // Bounds the number of writes.
        most.max(bytes / 2000).max(1) as u32
    }

    fn send(&mut self, side: usize, bytes: u64) {
        let write = self.write(bytes);
        self.send_by(side, bytes, write, Duration::ZERO);
    }

    fn send_by(&mut self, side: usize, bytes: u64, write: u32, gap: Duration) {
        self.sides[side].acts.push(Act::Send { bytes, write, gap });
        self.sent[side] += bytes;
    }

    /// Makes a side wait for all that the other side has planned to send so far.
    fn await_bytes(&mut self, side: usize) {
        self.sides[side].acts.push(Act::AwaitBytes(self.sent[1 - side]));
    }

    fn pause(&mut self, side: usize) {
        let most = if self.chance(10) { 300 } else { 20 };
        let long = self.millis(most);
        self.sides[side].acts.push(Act::Pause(long));
    }

    /// Some rounds of question and answer.
    fn dialogue(&mut self) {
        let first = self.side();
        let most = if self.chance(30) { 100 } else { 12 };
        let large = self.chance(20);
        for _ in 0..self.random.u32(1..=most) {
            for side in [first, 1 - first] {
                let bytes = if large { self.size().min(20_000) } else { self.random.u64(1..600) };
                self.send_by(side, bytes, 256 << 10, Duration::ZERO);
                self.await_bytes(1 - side);
            }
            if self.chance(3) {
                self.pause(first);
            }
        }
    }

    /// A burst from one side, or from both at once, in large writes or in small paced writes.
    fn burst(&mut self) {
        let first = self.side();
        let both = self.chance(40);
        for side in [first, 1 - first].into_iter().take(if both { 2 } else { 1 }) {
            if self.chance(25) {
                let (bytes, gap) = (self.random.u64(1..3000), self.millis(4));
                let write = (bytes / 60).max(1) as u32;
                self.send_by(side, bytes, write, gap);
            } else {
                let bytes = self.size();
                self.send(side, bytes);
            }
            if self.chance(20) {
                self.pause(side);
            }
        }
        if self.chance(50) {
            self.await_bytes(1 - first);
        }
    }

    fn urgent(&mut self) {
        let side = self.side();
        self.sides[side].acts.push(Act::Urgent);
        self.sent[side] += 1;
        if self.chance(50) {
            self.await_bytes(1 - side);
        }
    }

    /// Which side ends first, and what the other side sends afterwards.
    fn ends(&mut self) {
        let last = self.side();
        if self.chance(50) {
            self.sides[last].acts.push(Act::AwaitEnd);
            if self.chance(50) {
                let bytes = self.size();
                self.send(last, bytes);
            }
        }
        if self.chance(20) {
            self.pause(1 - last);
        }
    }

    /// Read pauses and small buffers.
    fn read_pauses(&mut self) {
        for side in 0..2 {
            if self.chance(20) {
                let size = self.random.u32(32 << 10..256 << 10);
                self.sides[side].buffers = Some(size);
            }
            let coming = self.sent[1 - side];
            if coming > 0 && self.chance(20) {
                let mut after = 0;
                for _ in 0..self.random.u32(1..4) {
                    after = self.random.u64(after..=coming);
                    let most = if self.chance(20) { 400 } else { 60 };
                    let long = Some(self.millis(most));
                    self.sides[side].read_pauses.push(ReadPause { after, long });
                }
            }
        }
    }

    /// Which side breaks off, how and when, and which side stopped reading before.
    fn breaks(&mut self) {
        if self.chance(55) {
            return;
        }
        let side = self.side();
        self.break_off(side);
        if self.chance(10) {
            self.break_off(1 - side);
        }
        let stalled = self.side();
        if self.chance(30) && self.will_be_freed(stalled) {
            let after = self.random.u64(0..=self.sent[1 - stalled]);
            let read_pauses = &mut self.sides[stalled].read_pauses;
            read_pauses.retain(|rest| rest.after < after);
            read_pauses.push(ReadPause { after, long: None });
        }
    }

    /// Whether a side that stops reading for good breaks off itself or can get a reset. In the
    /// second case the side waits for the end, so that neither side finishes before the reset.
    fn will_be_freed(&mut self, side: usize) -> bool {
        if self.sides[side].breaks.is_some() {
            return true;
        }
        let other = self.sides[1 - side].breaks;
        let is_reset = other.is_some_and(|other| other.ending == Ending::Reset);
        if is_reset {
            self.sides[side].acts.push(Act::AwaitEnd);
        }
        is_reset
    }

    fn break_off(&mut self, side: usize) {
        let ending = if self.chance(65) { Ending::Reset } else { Ending::Close };
        let moment = match self.random.u32(0..10) {
            0..3 => Moment::Sent(self.random.u64(0..=self.sent[side])),
            3..6 => Moment::Received(self.random.u64(0..=self.sent[1 - side])),
            6 => Moment::SentEnd,
            7 => Moment::ReceivedEnd,
            _ => Moment::Time,
        };
        let most = if self.chance(20) { 1000 } else { 100 };
        let within = self.millis(most);
        self.sides[side].breaks = Some(Break { ending, moment, within });
    }
}
