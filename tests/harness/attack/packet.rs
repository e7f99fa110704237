//! An attacker's packets: any TCP header in any IP header, with any addresses.
//!
//! Invariant: the packet is exactly what the fields say; the kernel fills in only the IPv4 header
//! checksum.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::checksum;

/// Source and destination of the packets of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPair {
    /// The end that the packets claim to come from.
    pub from: SocketAddr,
    /// The end that the packets go to.
    pub to: SocketAddr,
}

/// What the IP header says about the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpShape {
    /// A TCP segment.
    #[default]
    Plain,
    /// The first fragment, with this many bytes of the segment.
    First(usize),
    /// A later fragment, whose body is the segment.
    Later,
    /// A segment after this many destination option headers (IPv6) or words of no-operation options
    /// (IPv4).
    Behind(usize),
    /// A segment after an authentication header.
    Authenticated,
    /// The IP header claims this many bytes more than the packet has.
    Longer(u16),
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct AttackPacket {
    /// Source and destination.
    pub pair: AddressPair,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Bits of [`flag`](crate::flag).
    pub flags: u8,
    /// The window field, unscaled.
    pub window: u16,
    /// TSval and TSecr of the timestamps option, if there is one.
    pub stamps: Option<[u32; 2]>,
    /// One block of selective acknowledgement, if there is one.
    pub sack: Option<[u32; 2]>,
    /// Kind and length of a malformed option, if there is one.
    pub broken_option: Option<[u8; 2]>,
    /// A false data offset in words; `None` for the right one.
    pub offset: Option<u8>,
    /// Payload.
    pub payload: &'static [u8],
    /// The IP header.
    pub shape: IpShape,
    /// Whether the TCP checksum is right.
    pub is_intact: bool,
}

/// Every byte of the attacked streams and of the attacker's data. A TCP accepts blind data inside
/// its window with a probability that no balancer can lower; data equal to the stream's does no
/// harm.
pub const BYTE: u8 = b'x';

impl AttackPacket {
    /// An acknowledgement with these numbers.
    pub fn new(pair: AddressPair, seq: u32, ack: u32) -> Self {
        Self {
            pair,
            seq,
            ack,
            flags: crate::flag::ACK,
            window: 500,
            stamps: None,
            sack: None,
            broken_option: None,
            offset: None,
            payload: &[],
            shape: IpShape::Plain,
            is_intact: true,
        }
    }

    /// Writes the packet from the IP header on, replacing the content of `packet`.
    pub fn write(&self, packet: &mut Vec<u8>) {
        packet.clear();
        match (self.pair.from.ip(), self.pair.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                let start = self.ipv4(packet, &addresses);
                self.segment(packet, start, &addresses);
                self.cut(packet, start);
                let len = packet.len() as u16 + self.lie();
                packet[2..4].copy_from_slice(&len.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                let start = self.ipv6(packet, &addresses);
                self.segment(packet, start, &addresses);
                self.cut(packet, start);
                let len = packet.len() as u16 - 40 + self.lie();
                packet[4..6].copy_from_slice(&len.to_be_bytes());
            }
            _ => unreachable!("both ends of a connection have one family"),
        }
    }

    fn lie(&self) -> u16 {
        match self.shape {
            IpShape::Longer(by) => by,
            _ => 0,
        }
    }

    fn cut(&self, packet: &mut Vec<u8>, start: usize) {
        if let IpShape::First(len) = self.shape {
            packet.truncate(start + len);
        }
    }

    fn ipv4(&self, packet: &mut Vec<u8>, addresses: &[u8]) -> usize {
        let (more, place) = (0x2000u16, 1u16);
        let fragment = match self.shape {
            IpShape::First(_) => more,
            IpShape::Later => place,
            _ => 0,
        };
        let words = match self.shape {
            IpShape::Behind(words) => words.min(10),
            _ => 0,
        };
        let kind = if self.shape == IpShape::Authenticated { 51 } else { 6 };
        packet.extend([0x45 + words as u8, 0, 0, 0]);
        packet.extend((self.seq as u16 | 1).to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, kind, 0, 0]);
        packet.extend(addresses);
        packet.resize(packet.len() + words * 4, 1);
        if self.shape == IpShape::Authenticated {
            packet.extend(AUTHENTICATION);
        }
        packet.len()
    }

    fn ipv6(&self, packet: &mut Vec<u8>, addresses: &[u8]) -> usize {
        const TCP: u8 = 6;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        let kind = match self.shape {
            IpShape::First(_) | IpShape::Later => FRAGMENT,
            IpShape::Behind(1..) => DESTINATION,
            IpShape::Authenticated => 51,
            _ => TCP,
        };
        packet.extend([0x60, 0, 0, 0, 0, 0, kind, 64]);
        packet.extend(addresses);
        match self.shape {
            IpShape::First(_) => packet.extend([TCP, 0, 0, 1]),
            IpShape::Later => packet.extend([TCP, 0, 0, 8]),
            _ => {}
        }
        match self.shape {
            IpShape::First(_) | IpShape::Later => packet.extend(self.seq.to_be_bytes()),
            IpShape::Behind(headers) => {
                for left in (0..headers).rev() {
                    let next = if left > 0 { DESTINATION } else { TCP };
                    // Four bytes of padding (PadN) fill the header.
                    packet.extend([next, 0, 1, 4, 0, 0, 0, 0]);
                }
            }
            IpShape::Authenticated => packet.extend(AUTHENTICATION),
            _ => {}
        }
        packet.len()
    }

    fn segment(&self, packet: &mut Vec<u8>, start: usize, addresses: &[u8]) {
        packet.extend(self.pair.from.port().to_be_bytes());
        packet.extend(self.pair.to.port().to_be_bytes());
        packet.extend(self.seq.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([0, self.flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0, 0, 0, 0]);
        if let Some([value, echo]) = self.stamps {
            packet.extend([1, 1, 8, 10]);
            packet.extend(value.to_be_bytes());
            packet.extend(echo.to_be_bytes());
        }
        if let Some([left, right]) = self.sack {
            packet.extend([1, 1, 5, 10]);
            packet.extend(left.to_be_bytes());
            packet.extend(right.to_be_bytes());
        }
        if let Some([kind, len]) = self.broken_option {
            packet.extend([1, 1, kind, len]);
        }
        let words = ((packet.len() - start) / 4) as u8;
        packet[start + 12] = self.offset.unwrap_or(words) << 4;
        packet.extend(self.payload);
        let len = (packet.len() - start) as u16;
        let mut pseudo = [0; 36];
        pseudo[..addresses.len()].copy_from_slice(addresses);
        pseudo[33] = 6;
        pseudo[34..].copy_from_slice(&len.to_be_bytes());
        // The segment begins at a word boundary, so the partial sums may be added.
        let sum = checksum(&pseudo);
        packet[start + 16..start + 18].copy_from_slice(&(!sum).to_be_bytes());
        let mut check = checksum(&packet[start..]);
        if !self.is_intact {
            check = check.wrapping_add(0x0101);
            // A field with the sum of the pseudo header stands for a checksum that the sender has
            // left to its device. No program can tell the two apart.
            if check == !sum {
                check = check.wrapping_add(0x0101);
            }
        }
        packet[start + 16..start + 18].copy_from_slice(&check.to_be_bytes());
    }
}

/// The shortest authentication header (RFC 4302) before a TCP segment.
const AUTHENTICATION: [u8; 16] = [6, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0];
