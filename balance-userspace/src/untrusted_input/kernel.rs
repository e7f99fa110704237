//! Data from the kernel.
//!
//! Invariant: malformed data never causes a panic.

use crate::datapath::parsers;

/// BTF type information: a field offset is within the bounds of the format.
pub fn btf(data: &[u8]) {
    for (of, field) in [("pair", "b"), ("tcp_sock", "bytes_acked"), ("", "")] {
        if let Some(offset) = parsers::btf_field_offset(data, of, field) {
            // BTF has offsets in bits.
            assert!(offset <= u64::from(u32::MAX) / 8);
        }
    }
}

/// Replies of rtnetlink about routes and interfaces.
pub fn rtnetlink(data: &[u8]) {
    let _ = parsers::netlink_reply(data);
    let _ = parsers::netlink_replies(data, &mut Vec::new());
}
