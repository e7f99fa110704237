//! The kinds of attack: what an attacker sends who knows addresses and ports, and sees no packet.
//!
//! Invariant: only [`Kind::Checksum`] uses a number of the connection; all others guess.

use std::{fmt, str::FromStr};

use super::packet::{BYTE, Pair, Shape, Shot};
use crate::flag;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data, and a RST with the number behind the data, walking through all numbers.
    Reset,
    /// Ends with and without data.
    Fin,
    /// RSTs alone, with and without an acknowledgement.
    Rst,
    /// Beginnings of connections, and answers to them.
    Syn,
    /// Acknowledgements, windows, selective acknowledgements and timestamps.
    Ack,
    /// RSTs, ends and data with the right numbers and a wrong checksum.
    Checksum,
    /// Fragments, extension headers, headers that lie, any flags.
    Odd,
    /// All that is well formed.
    Mixed,
}

impl Kind {
    /// All that there are, with the names by which they are asked for.
    pub const ALL: [(&'static str, Self); 8] = [
        ("reset", Self::Reset),
        ("fin", Self::Fin),
        ("rst", Self::Rst),
        ("syn", Self::Syn),
        ("ack", Self::Ack),
        ("checksum", Self::Checksum),
        ("odd", Self::Odd),
        ("mixed", Self::Mixed),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, kind)| kind == self);
        f.pad(known.map_or("unnamed", |(name, _)| name))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no such kind, there are {}", names.join(", "))
        })
    }
}

/// Numbers that one step of a walk passes: less than any window of the peers.
const STEP: u32 = 60_000;

/// An attacker's guesses.
#[derive(Debug)]
pub struct Guesses {
    random: fastrand::Rng,
    /// Where the walk through the numbers is, and how many steps are left of this round.
    walk: u32,
    left: u32,
    turn: usize,
}

impl Guesses {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), walk: 0, left: 0, turn: 0 }
    }

    fn number(&mut self) -> u32 {
        self.random.u32(..)
    }

    /// The next number of the walk.
    fn step(&mut self) -> u32 {
        if self.left == 0 {
            self.walk = self.random.u32(..);
            self.left = u32::MAX / STEP + 1;
        }
        self.left -= 1;
        self.walk = self.walk.wrapping_add(STEP);
        self.walk
    }

    /// Adds the next few packets of a kind, on each of the known pairs in turn. `right` has the numbers
    /// that are due on each.
    pub fn add(&mut self, kind: Kind, pairs: &[Pair], right: &[[u32; 2]], shots: &mut Vec<Shot>) {
        self.turn += 1;
        let which = self.turn % pairs.len();
        let pair = pairs[which];
        let first = shots.len();
        match kind {
            Kind::Reset => self.reset(pairs, pair, shots),
            Kind::Fin => {
                let payload = self.some_payload();
                let shot = Shot::new(pair, self.step(), self.number());
                shots.push(Shot { flags: flag::FIN | flag::ACK, payload, ..shot });
            }
            Kind::Rst => {
                let flags = if self.random.bool() { flag::RST } else { flag::RST | flag::ACK };
                let shot = Shot::new(pair, self.step(), self.number());
                shots.push(Shot { flags, ..shot });
            }
            Kind::Syn => {
                let more = [0, flag::ACK, flag::FIN, flag::RST, flag::ACK | flag::FIN];
                let flags = flag::SYN | more[self.random.usize(..more.len())];
                let payload = self.some_payload();
                let shot = Shot::new(pair, self.step(), self.number());
                shots.push(Shot { flags, payload, ..shot });
            }
            Kind::Ack => {
                let number = self.number();
                let sack = self.random.bool().then(|| [number, number.wrapping_add(1000)]);
                let shot = Shot::new(pair, self.step(), self.number());
                shots.push(Shot { window: self.random.u16(..), sack, ..shot });
            }
            Kind::Checksum => {
                let [seq, ack] = right[which];
                let kinds = [flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK, flag::ACK];
                let flags = kinds[self.random.usize(..kinds.len())];
                let payload = if flags == flag::ACK { &[BYTE][..] } else { &[] };
                let shot = Shot::new(pair, seq, ack);
                shots.push(Shot { flags, payload, is_intact: false, ..shot });
            }
            Kind::Odd => self.odd(pair, shots),
            Kind::Mixed => {
                let kinds = [Kind::Reset, Kind::Fin, Kind::Rst, Kind::Syn, Kind::Ack];
                let kind = kinds[self.random.usize(..kinds.len())];
                return self.add(kind, pairs, right, shots);
            }
        }
        // A peer that compares timestamps takes packets that have none.
        if self.random.u8(..4) == 0 {
            for shot in &mut shots[first..] {
                if shot.sack.is_none() && shot.broken_option.is_none() && shot.offset.is_none() {
                    shot.stamps = Some([self.random.u32(..), self.random.u32(..)]);
                }
            }
        }
    }

    fn reset(&mut self, pairs: &[Pair], pair: Pair, shots: &mut Vec<Shot>) {
        let seq = self.step();
        let payload = &[BYTE][..];
        let data = Shot { payload, flags: PUSH | flag::ACK, ..Shot::new(pair, seq, self.number()) };
        if let Some(other) = pairs.iter().find(|known| **known != pair) {
            // Room for the data on the other pair.
            let shot = Shot::new(*other, self.number(), self.number());
            shots.push(Shot { window: u16::MAX, ..shot });
        }
        shots.push(data);
        let shot = Shot::new(pair, seq.wrapping_add(1), 0);
        shots.push(Shot { flags: flag::RST, ..shot });
    }

    fn some_payload(&mut self) -> &'static [u8] {
        const MOST: [u8; 1000] = [BYTE; 1000];
        match self.random.u8(..3) {
            0 => &[],
            1 => &MOST[..1],
            _ => &MOST,
        }
    }

    fn odd(&mut self, pair: Pair, shots: &mut Vec<Shot>) {
        let plain = Shot::new(pair, self.step(), self.number());
        let payload = self.some_payload();
        let ends = [flag::ACK, flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK];
        let flags = ends[self.random.usize(..ends.len())];
        let shaped = |shape| Shot { shape, flags, payload, ..plain };
        let shot = match self.random.u8(..10) {
            0 => shaped(Shape::First(20 + payload.len())),
            // Less than a TCP header: the rest of it is in another fragment.
            1 => shaped(Shape::First([8, 16][self.random.usize(..2)])),
            2 => shaped(Shape::Later),
            3 => shaped(Shape::Behind(self.random.usize(1..7))),
            4 => shaped(Shape::Authenticated),
            5 => shaped(Shape::Longer(self.random.u16(1..9))),
            6 => Shot { offset: Some(self.random.u8(0..16)), flags, payload, ..plain },
            7 => {
                let broken_option =
                    Some([self.random.u8(2..40), [0, 1, 3, 60][self.random.usize(..4)]]);
                Shot { broken_option, flags, payload, ..plain }
            }
            // Neither acknowledgement nor anything else that a segment must have.
            8 => Shot { flags: self.random.u8(..) & !(flag::ACK | flag::SYN), payload, ..plain },
            _ => Shot { flags: self.random.u8(..), payload, ..plain },
        };
        shots.push(shot);
    }
}

/// PSH.
const PUSH: u8 = 0x08;
