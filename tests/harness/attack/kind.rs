//! The kinds of attack: packets of an attacker that knows addresses and ports, and sees no packet.
//!
//! Invariant: only [`AttackKind::Checksum`] uses sequence numbers of the connection; every other
//! kind guesses them.

use std::{fmt, str::FromStr};

use super::packet::{AddressPair, AttackPacket, BYTE, IpShape};
use crate::flag;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackKind {
    /// Data, and a RST with the sequence number after the data; the numbers sweep the whole space.
    Reset,
    /// FIN with and without data.
    Fin,
    /// RST with and without an acknowledgement.
    Rst,
    /// SYN and SYN-ACK.
    Syn,
    /// Acknowledgements, windows, selective acknowledgements and timestamps.
    Ack,
    /// RST, FIN and data with the right sequence numbers and a wrong checksum.
    Checksum,
    /// Fragments, extension headers, false length fields, random flags.
    Malformed,
    /// All well-formed kinds.
    Mixed,
}

impl AttackKind {
    /// All kinds with their names.
    pub const ALL: [(&'static str, Self); 8] = [
        ("reset", Self::Reset),
        ("fin", Self::Fin),
        ("rst", Self::Rst),
        ("syn", Self::Syn),
        ("ack", Self::Ack),
        ("checksum", Self::Checksum),
        ("malformed", Self::Malformed),
        ("mixed", Self::Mixed),
    ];
}

impl fmt::Display for AttackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, kind)| kind == self);
        f.pad(known.map_or("unnamed", |(name, _)| name))
    }
}

impl FromStr for AttackKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no such kind, there are {}", names.join(", "))
        })
    }
}

/// Sequence numbers that one step of a sweep covers: less than any window of the peers.
const STEP: u32 = 60_000;

/// Generates the packets of an attacker.
#[derive(Debug)]
pub struct PacketGenerator {
    random: fastrand::Rng,
    /// Position of the sweep through the sequence numbers, and the steps left in this round.
    walk: u32,
    left: u32,
    next_pair: usize,
}

impl PacketGenerator {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), walk: 0, left: 0, next_pair: 0 }
    }

    fn number(&mut self) -> u32 {
        self.random.u32(..)
    }

    /// The next sequence number of the sweep.
    fn step(&mut self) -> u32 {
        if self.left == 0 {
            self.walk = self.random.u32(..);
            self.left = u32::MAX / STEP + 1;
        }
        self.left -= 1;
        self.walk = self.walk.wrapping_add(STEP);
        self.walk
    }

    /// Adds the next packets of a kind, for each of the known pairs in order. `right` has the next
    /// sequence number and acknowledgement of each pair.
    pub fn add(
        &mut self,
        kind: AttackKind,
        pairs: &[AddressPair],
        right: &[[u32; 2]],
        packets_out: &mut Vec<AttackPacket>,
    ) {
        self.next_pair += 1;
        let which = self.next_pair % pairs.len();
        let pair = pairs[which];
        let first = packets_out.len();
        match kind {
            AttackKind::Reset => self.reset(pairs, pair, packets_out),
            AttackKind::Fin => {
                let payload = self.some_payload();
                let shot = AttackPacket::new(pair, self.step(), self.number());
                packets_out.push(AttackPacket { flags: flag::FIN | flag::ACK, payload, ..shot });
            }
            AttackKind::Rst => {
                let flags = if self.random.bool() { flag::RST } else { flag::RST | flag::ACK };
                let shot = AttackPacket::new(pair, self.step(), self.number());
                packets_out.push(AttackPacket { flags, ..shot });
            }
            AttackKind::Syn => {
                let more = [0, flag::ACK, flag::FIN, flag::RST, flag::ACK | flag::FIN];
                let flags = flag::SYN | more[self.random.usize(..more.len())];
                let payload = self.some_payload();
                let shot = AttackPacket::new(pair, self.step(), self.number());
                packets_out.push(AttackPacket { flags, payload, ..shot });
            }
            AttackKind::Ack => {
                let number = self.number();
                let sack = self.random.bool().then(|| [number, number.wrapping_add(1000)]);
                let shot = AttackPacket::new(pair, self.step(), self.number());
                packets_out.push(AttackPacket { window: self.random.u16(..), sack, ..shot });
            }
            AttackKind::Checksum => {
                let [seq, ack] = right[which];
                let kinds = [flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK, flag::ACK];
                let flags = kinds[self.random.usize(..kinds.len())];
                let payload = if flags == flag::ACK { &[BYTE][..] } else { &[] };
                let shot = AttackPacket::new(pair, seq, ack);
                packets_out.push(AttackPacket { flags, payload, is_intact: false, ..shot });
            }
            AttackKind::Malformed => self.malformed(pair, packets_out),
            AttackKind::Mixed => {
                let kinds = [
                    AttackKind::Reset,
                    AttackKind::Fin,
                    AttackKind::Rst,
                    AttackKind::Syn,
                    AttackKind::Ack,
                ];
                let kind = kinds[self.random.usize(..kinds.len())];
                return self.add(kind, pairs, right, packets_out);
            }
        }
        // A peer that compares timestamps accepts packets without them.
        if self.random.u8(..4) == 0 {
            for shot in &mut packets_out[first..] {
                if shot.sack.is_none() && shot.broken_option.is_none() && shot.offset.is_none() {
                    shot.stamps = Some([self.random.u32(..), self.random.u32(..)]);
                }
            }
        }
    }

    fn reset(
        &mut self,
        pairs: &[AddressPair],
        pair: AddressPair,
        packets_out: &mut Vec<AttackPacket>,
    ) {
        let seq = self.step();
        let payload = &[BYTE][..];
        let data = AttackPacket {
            payload,
            flags: PUSH | flag::ACK,
            ..AttackPacket::new(pair, seq, self.number())
        };
        if let Some(other) = pairs.iter().find(|known| **known != pair) {
            // Opens the window for the data on the other pair.
            let shot = AttackPacket::new(*other, self.number(), self.number());
            packets_out.push(AttackPacket { window: u16::MAX, ..shot });
        }
        packets_out.push(data);
        let shot = AttackPacket::new(pair, seq.wrapping_add(1), 0);
        packets_out.push(AttackPacket { flags: flag::RST, ..shot });
    }

    fn some_payload(&mut self) -> &'static [u8] {
        const MOST: [u8; 1000] = [BYTE; 1000];
        match self.random.u8(..3) {
            0 => &[],
            1 => &MOST[..1],
            _ => &MOST,
        }
    }

    fn malformed(&mut self, pair: AddressPair, packets_out: &mut Vec<AttackPacket>) {
        let plain = AttackPacket::new(pair, self.step(), self.number());
        let payload = self.some_payload();
        let ends = [flag::ACK, flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK];
        let flags = ends[self.random.usize(..ends.len())];
        let shaped = |shape| AttackPacket { shape, flags, payload, ..plain };
        let shot = match self.random.u8(..10) {
            0 => shaped(IpShape::First(20 + payload.len())),
            // Less than a TCP header: the rest is in another fragment.
            1 => shaped(IpShape::First([8, 16][self.random.usize(..2)])),
            2 => shaped(IpShape::Later),
            3 => shaped(IpShape::Behind(self.random.usize(1..7))),
            4 => shaped(IpShape::Authenticated),
            5 => shaped(IpShape::Longer(self.random.u16(1..9))),
            6 => AttackPacket { offset: Some(self.random.u8(0..16)), flags, payload, ..plain },
            7 => {
                let broken_option =
                    Some([self.random.u8(2..40), [0, 1, 3, 60][self.random.usize(..4)]]);
                AttackPacket { broken_option, flags, payload, ..plain }
            }
            // Without ACK, which every segment after the SYN must have.
            8 => AttackPacket {
                flags: self.random.u8(..) & !(flag::ACK | flag::SYN),
                payload,
                ..plain
            },
            _ => AttackPacket { flags: self.random.u8(..), payload, ..plain },
        };
        packets_out.push(shot);
    }
}

/// PSH.
const PUSH: u8 = 0x08;
