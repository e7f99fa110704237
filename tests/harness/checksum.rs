//! The checksum of the Internet (RFC 1071).
//!
//! Invariant: what is given begins where a word of 16 bits does.

/// The checksum of at most 64 KiB, in which its own place has zeros.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from_be_bytes([0, 0, w[0], *w.get(1).unwrap_or(&0)]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
