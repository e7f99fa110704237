//! A TCP segment as the program reads it, and what the program does with the segment.
//!
//! Invariant: numbers are in host byte order.

/// Flag bits of a TCP header, from its 14th byte.
pub mod flag {
    /// The sender ends its direction.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// The sender resets the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
}

/// The fields of a segment that a decision depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number: the next byte that the sender expects.
    pub ack: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Window field of the header, not scaled.
    pub window: u16,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Segment {
    /// Sequence numbers that the segment occupies: one for each byte, and one for a FIN.
    #[inline(always)]
    pub const fn seq_len(&self) -> u32 {
        self.len + (self.flags & flag::FIN) as u32
    }

    /// The sequence number behind the segment.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.seq_len())
    }
}

/// A segment as the program forwards it to the other peer, in the numbers of the other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field of the header.
    pub window: u16,
    /// The selective acknowledgements must be removed.
    pub without_sack: bool,
}

/// The part of a segment that the local socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalDelivery {
    /// Nothing.
    Nothing,
    /// The whole segment, with this acknowledgement number.
    Segment(u32),
    /// A segment without payload and FIN: its sequence number and its acknowledgement number.
    AckOnly(u32, u32),
}

/// What happens to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The segment that the other peer receives.
    pub forward: Option<Forward>,
    /// The part that the local socket receives.
    pub local: LocalDelivery,
    /// The segment acknowledges the local socket's last byte: the side becomes drained.
    pub drains: bool,
    /// The TCP of the other peer accepts the segment as well, so its contents count.
    pub accepted: bool,
}
