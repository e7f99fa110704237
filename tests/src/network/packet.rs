//! What is told about a TCP packet by the frame it is in.

/// A TCP packet that was seen on a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its time to live, or hop limit.
    pub ttl: u8,
    /// FIN, SYN, RST, PSH, ACK and so on, as in its header.
    pub flags: u8,
    /// Bytes of the stream that are in it.
    pub payload: usize,
}

/// Bytes before the packet in an Ethernet frame.
pub(super) const HEADER: usize = 14;

impl Packet {
    /// What is in a frame, if that is TCP without options of IP.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        const TCP: u8 = 6;

        let (kind, packet) = (frame.get(12..HEADER)?, &frame[HEADER..]);
        let word = |at: usize| {
            Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])))
        };
        let (protocol, ttl, header, len) = match kind {
            [0x08, 0x00] => (*packet.get(9)?, packet[8], 20, word(2)?),
            [0x86, 0xdd] => (*packet.get(6)?, *packet.get(7)?, 40, 40 + word(4)?),
            _ => return None,
        };
        if protocol != TCP {
            return None;
        }
        let offset = 4 * usize::from(packet.get(header + 12)? >> 4);
        let payload = len.checked_sub(header + offset)?;
        Some(Self { ttl, flags: *packet.get(header + 13)?, payload })
    }
}
