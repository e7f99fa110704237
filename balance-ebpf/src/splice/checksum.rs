//! The Internet checksum (RFC 1071), as far as the kernel's helpers do not compute it.
//!
//! Invariant: words and sums are in the byte order of the machine, as in the helpers' arguments and
//! results.

/// The change of a sum when some of its words change (RFC 1624).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumDelta(u64);

impl ChecksumDelta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// Adds the change of one word (or 32-bit sum). Allowed up to 2^31 times.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// The change as an argument of the helpers.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        // The end-around carry.
        (sum + (sum >> 32)) as u32
    }
}

/// The change that undoes another.
#[inline(always)]
pub const fn inverse(sum: u32) -> u32 {
    !sum
}

/// Folds a 32-bit sum, as `bpf_csum_diff` returns it, to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum of the pseudo header of a TCP segment of `len` bytes (RFC 9293, 3.1). An IPv4 address is
/// the first word of its array, and the rest is 0.
#[inline(always)]
pub const fn pseudo_sum(source: &[u32; 4], target: &[u32; 4], len: u32) -> u32 {
    const TCP: u32 = 6;
    let [a, b, c, d] = *source;
    let [e, f, g, h] = *target;
    let addresses = a as u64 + b as u64 + c as u64 + d as u64;
    let addresses = addresses + e as u64 + f as u64 + g as u64 + h as u64;
    ChecksumDelta(addresses + len.to_be() as u64 + TCP.to_be() as u64).sum()
}

/// A 16-bit checksum after a change.
#[inline(always)]
pub const fn update_checksum(check: u16, delta: u32) -> u16 {
    !fold(ChecksumDelta(!check as u64 + delta as u64).sum())
}

/// The checksum of words, computed from scratch.
#[cfg(test)]
pub(super) fn check(words: &[u32]) -> u16 {
    !fold(words.iter().fold(ChecksumDelta::NONE, |sum, word| sum.and(u32::MAX, *word)).sum())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn carries_are_added_to_the_sum() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
        assert_eq!(fold(0x1234_0000), 0x1234);
        assert_eq!(ChecksumDelta(u64::MAX).sum(), u32::MAX);
        assert_eq!(ChecksumDelta(0xffff_ffff_0000_0001).sum(), 1);
    }

    proptest! {
        /// An updated checksum equals a computed one, in both directions. The exception is a header
        /// of zeros, which neither TCP nor IP has.
        #[test]
        fn an_updated_checksum_equals_a_computed_one(
            pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 1..20),
            same in 1..=u32::MAX,
        ) {
            let words = |new| -> Vec<u32> {
                let changed = pairs.iter().map(|(old, now)| if new { *now } else { *old });
                changed.chain([same]).collect()
            };
            let (before, after) = (check(&words(false)), check(&words(true)));
            let all = pairs.iter().fold(ChecksumDelta::NONE, |all, (old, new)| all.and(*old, *new));
            let all = all.sum();
            prop_assert_eq!(update_checksum(before, all), after);
            prop_assert_eq!(update_checksum(after, inverse(all)), before);
        }
    }

    /// A segment from 127.0.0.1:46312 to 127.0.0.1:25 with the payload "HELO".
    #[test]
    fn a_segment_with_its_pseudo_header_sums_up_to_zero() {
        let words = |bytes: &[u8]| -> std::vec::Vec<u32> {
            bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
        };
        let address = [u32::from_ne_bytes([127, 0, 0, 1]), 0, 0, 0];
        let mut segment = [
            0xb4, 0xe8, 0, 25, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 2, 0, 0, 0, 0, 0, b'H', b'E',
            b'L', b'O',
        ];
        // By hand: the sum of all 16-bit words in network order.
        let pseudo = 0x7f00 + 1 + 0x7f00 + 1 + 6 + 24;
        let sum: u32 = segment.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let sum = sum + pseudo;
        let folded = (sum & 0xffff) + (sum >> 16);
        let [a, b] = (!(folded as u16)).to_be_bytes();
        (segment[16], segment[17]) = (a, b);
        let sum =
            words(&segment).iter().fold(ChecksumDelta::NONE, |sum, word| sum.and(u32::MAX, *word));
        let whole = sum.and(u32::MAX, pseudo_sum(&address, &address, 24));
        assert_eq!(fold(whole.sum()), 0xffff);
    }
}
