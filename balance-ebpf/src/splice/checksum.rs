//! The checksum of the Internet (RFC 1071), as far as the kernel's helpers leave it to us.
//!
//! Invariant: sums are in the byte order of the machine, as the helpers give and take them.

/// Folds a sum of 32 bits, as `bpf_csum_diff` makes it, to 16.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_come_round() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
        assert_eq!(fold(0x1234_0000), 0x1234);
    }
}
