//! What the kernel says.

use crate::datapath::parsers;

/// Its type information.
pub fn btf(data: &[u8]) {
    for (of, field) in [("pair", "b"), ("tcp_sock", "bytes_acked"), ("", "")] {
        if let Some(offset) = parsers::btf_field_offset(data, of, field) {
            // An offset is told in bits.
            assert!(offset <= u64::from(u32::MAX) / 8);
        }
    }
}

/// Its answers about routes and interfaces.
pub fn rtnetlink(data: &[u8]) {
    let _ = parsers::netlink_reply(data);
    let _ = parsers::netlink_replies(data, &mut Vec::new());
}
