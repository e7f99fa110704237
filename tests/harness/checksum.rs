//! The Internet checksum (RFC 1071).
//!
//! Invariant: the input begins at a 16-bit word boundary of the packet.

/// The checksum of at most 64 KiB; the checksum field itself must be zero.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from_be_bytes([0, 0, w[0], *w.get(1).unwrap_or(&0)]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
