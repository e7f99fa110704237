//! What the kernel says.

use crate::datapath::{sockmap::btf as type_info, splice::routes as netlink};

/// Its type information.
pub fn btf(data: &[u8]) {
    for (of, field) in [("pair", "b"), ("tcp_sock", "bytes_acked"), ("", "")] {
        if let Some(offset) = type_info::find(data, of, field) {
            // An offset is told in bits.
            assert!(offset <= u64::from(u32::MAX) / 8);
        }
    }
}

/// Its answers about routes and interfaces.
pub fn rtnetlink(data: &[u8]) {
    let _ = netlink::read(data);
    let _ = netlink::read_part(data, &mut Vec::new());
}
