//! Parses the TCP packet in a frame, and splits a frame into IP fragments.
//!
//! Invariant: a frame that is not understood yields `None`.

use crate::checksum::checksum;

/// A TCP packet observed on a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// TTL or hop limit.
    pub ttl: u8,
    /// Traffic class: DSCP and the two ECN bits.
    pub class: u8,
    /// Flags of the TCP header.
    pub flags: u8,
    /// Length of the payload in bytes.
    pub payload: usize,
}

/// Length of an Ethernet header.
pub(super) const HEADER: usize = 14;

impl Packet {
    /// Parses a frame; `None` unless it is TCP without IP options.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        const TCP: u8 = 6;

        let (kind, packet) = (frame.get(12..HEADER)?, &frame[HEADER..]);
        let word = |at: usize| {
            Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])))
        };
        let (protocol, ttl, class, header, len) = match kind {
            [0x08, 0x00] => (*packet.get(9)?, packet[8], packet[1], 20, word(2)?),
            [0x86, 0xdd] => {
                let class = (word(0)? >> 4) as u8;
                (*packet.get(6)?, *packet.get(7)?, class, 40, 40 + word(4)?)
            }
            _ => return None,
        };
        if protocol != TCP {
            return None;
        }
        let offset = 4 * usize::from(packet.get(header + 12)? >> 4);
        let payload = len.checked_sub(header + offset)?;
        Some(Self { ttl, class, flags: *packet.get(header + 13)?, payload })
    }
}

/// The two fragments of a frame (RFC 791, 3.2), if it is an unfragmented IPv4 packet without
/// options. Ignores the don't-fragment bit.
pub(super) fn split(frame: &[u8]) -> Option<[Vec<u8>; 2]> {
    const IP: usize = 20;
    const MORE: u16 = 0x2000;
    /// Unit of the fragment offset in bytes.
    const UNIT: usize = 8;

    let is_plain = frame.get(12..HEADER + 1)? == [0x08, 0x00, 0x45];
    let field = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let len = usize::from(field(HEADER + 2)?);
    let is_whole = field(HEADER + 6)? & 0x3fff == 0;
    let (head, body) = frame.get(..HEADER + len)?.split_at_checked(HEADER + IP)?;
    let first = body.len() / 2 / UNIT * UNIT;
    if !is_plain || !is_whole || first == 0 {
        return None;
    }
    let fragment = |address: u16, body: &[u8]| {
        let mut fragment = [head, body].concat();
        let ip = &mut fragment[HEADER..HEADER + IP];
        ip[2..4].copy_from_slice(&((IP + body.len()) as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&address.to_be_bytes());
        ip[10..12].fill(0);
        let check = checksum(ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        fragment
    };
    let (front, back) = body.split_at(first);
    Some([fragment(MORE, front), fragment((first / UNIT) as u16, back)])
}
