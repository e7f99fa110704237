//! The fixed part of a TCP header (RFC 9293, 3.1).
//!
//! Invariant: the words are in network order. Every function that changes words returns the change
//! of the checksum. The checksum itself changes only when a packet gets a new one.

use super::{
    checksum::ChecksumDelta,
    segment::{Forward, Segment, flag},
};

/// The words in network order. Both ports share one word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    ports: u32,
    seq: u32,
    ack: u32,
    /// Data offset, flags and window.
    middle: u32,
    /// Checksum and urgent pointer.
    last: u32,
}

/// Bytes of the fixed part.
pub const FIXED: u32 = 20;

/// Mask of the checksum in the last word.
const CHECK: u32 = 0xffff_0000_u32.to_be();

impl Header {
    /// The header of these words.
    #[inline(always)]
    pub const fn new(words: [u32; 5]) -> Self {
        let [ports, seq, ack, middle, last] = words;
        Self { ports, seq, ack, middle, last }
    }

    /// Bytes of the header with its options.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        (u32::from_be(self.middle) >> 28) * 4
    }

    /// The segment of this header and `payload` bytes.
    #[inline(always)]
    pub const fn segment(&self, payload: u32) -> Segment {
        let middle = u32::from_be(self.middle);
        Segment {
            seq: u32::from_be(self.seq),
            ack: u32::from_be(self.ack),
            len: payload,
            window: middle as u16,
            flags: (middle >> 16) as u8,
        }
    }

    /// Changes the header to that of a forwarded segment.
    #[inline(always)]
    pub const fn forward_as(&mut self, ports: u32, forward: &Forward) -> ChecksumDelta {
        // Urgent data becomes normal data in its place, as on the other datapaths.
        let kept = u32::from_be(self.middle) & !((flag::URG as u32) << 16 | 0xffff);
        self.replace(Self {
            ports,
            seq: forward.seq.to_be(),
            ack: forward.ack.to_be(),
            middle: (kept | forward.window as u32).to_be(),
            last: self.last & CHECK,
        })
    }

    /// Changes the acknowledgement number.
    #[inline(always)]
    pub const fn set_ack(&mut self, ack: u32) -> ChecksumDelta {
        self.replace(Self { ack: ack.to_be(), ..*self })
    }

    /// Changes the header to that of a bare acknowledgement. The checksum becomes 0.
    #[inline(always)]
    pub const fn make_ack_only(&mut self, seq: u32, ack: u32) {
        self.seq = seq.to_be();
        self.ack = ack.to_be();
        self.middle &= !((flag::FIN as u32) << 16).to_be();
        self.last &= !CHECK;
    }

    /// The checksum, in network order.
    #[inline(always)]
    pub const fn check(&self) -> u16 {
        let [a, b, ..] = self.last.to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    /// Changes the header to that of a RST with this number. The checksum becomes 0.
    #[inline(always)]
    pub const fn make_reset(&mut self, seq: u32) {
        self.seq = seq.to_be();
        self.ack = 0;
        let flags = u32::from_be(self.middle) & !(0xff << 16) | (flag::RST as u32) << 16;
        self.middle = flags.to_be();
        self.last = 0;
    }

    /// Sets the checksum, in network order. The checksum must be 0 before.
    #[inline(always)]
    pub const fn set_check(&mut self, check: u16) {
        let [a, b] = check.to_ne_bytes();
        self.last |= u32::from_ne_bytes([a, b, 0, 0]);
    }

    #[inline(always)]
    const fn replace(&mut self, new: Self) -> ChecksumDelta {
        let delta = ChecksumDelta::NONE
            .and(self.ports, new.ports)
            .and(self.seq, new.seq)
            .and(self.ack, new.ack)
            .and(self.middle, new.middle)
            .and(self.last, new.last);
        *self = new;
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::checksum::{check, update_checksum};
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        any::<[u32; 5]>().prop_map(Header::new)
    }

    /// The checksum of these words, computed from scratch.
    fn computed(header: &Header) -> u16 {
        let mut bare = *header;
        bare.last &= !CHECK;
        let Header { ports, seq, ack, middle, last } = bare;
        check(&[ports, seq, ack, middle, last])
    }

    #[test]
    fn the_words_are_read_in_network_order() {
        let bytes =
            [[0, 25, 4, 210], [0, 0, 1, 0], [0, 0, 2, 1], [0x80, 0x18, 3, 4], [0xab, 0xcd, 0, 0]];
        let header = Header::new(bytes.map(u32::from_ne_bytes));
        let flags = flag::ACK | 8;
        let segment = Segment { seq: 256, ack: 513, len: 7, window: 0x304, flags };
        assert_eq!((header.length(), header.segment(7)), (32, segment));
    }

    proptest! {
        #[test]
        fn a_forwarded_header_has_the_numbers_of_the_decision(
            header in header(), ports: u32, seq: u32, ack: u32, window: u16, without_sack: bool,
        ) {
            let mut onward = header;
            let delta =
                onward.forward_as(ports, &Forward { seq, ack, window, without_sack });
            let old = header.segment(0);
            let flags = old.flags & !flag::URG;
            prop_assert_eq!(onward.segment(0), Segment { seq, ack, window, flags, ..old });
            prop_assert_eq!((onward.ports, onward.length()), (ports, header.length()));
            prop_assert_eq!(onward.last, header.last & CHECK);
            // The checksum of a header of zeros has two representations.
            prop_assume!(ports != 0);
            prop_assert_eq!(
                update_checksum(computed(&header), delta.sum()),
                computed(&onward)
            );
        }

        #[test]
        fn a_delivered_header_differs_only_in_its_acknowledgement(
            header in header(), ack: u32, seq: u32,
        ) {
            let mut here = header;
            let delta = here.set_ack(ack);
            let old = header.segment(0);
            prop_assert_eq!(here.segment(0), Segment { ack, ..old });
            prop_assert_eq!(update_checksum(computed(&header), delta.sum()), computed(&here));
            here.make_ack_only(seq, ack);
            let flags = old.flags & !flag::FIN;
            prop_assert_eq!(here.segment(0), Segment { seq, ack, flags, ..old });
            prop_assert_eq!((here.ports, here.last), (header.ports, header.last & !CHECK));
            here.set_check(0x1234);
            prop_assert_eq!(here.last & CHECK, u32::from_ne_bytes([0x34, 0x12, 0, 0]));
            prop_assert_eq!(here.check(), 0x1234);
        }
    }
}
