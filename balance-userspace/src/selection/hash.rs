//! The classic's hash of a client's address, so that AF_INET6 clients keep their channel.
//!
//! Invariant: the hash depends on the address alone, never on the port. An IPv4 address has the
//! hash of its IPv4-mapped IPv6 address, so a client has the same channel on every listener.

use std::net::{IpAddr, Ipv6Addr};

/// Bytes after the address in the classic's structure: the scope and eight zero bytes.
const PADDING: [u8; 12] = [0; 12];

/// Returns the hash of a client's address: `h * 31 + byte` for each signed byte, modulo 2^32.
pub fn client_hash(address: IpAddr) -> u32 {
    let v6: Ipv6Addr = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    v6.octets().iter().chain(&PADDING).fold(0u32, |h, &byte| {
        h.wrapping_mul(31).wrapping_add_signed(i32::from(byte.cast_signed()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_has_the_values_of_the_classic() {
        assert_eq!(client_hash("::ffff:127.0.3.1".parse().unwrap()), 1_715_320_031);
        assert_eq!(client_hash("127.0.3.1".parse().unwrap()), 1_715_320_031);
        assert_eq!(client_hash("::1".parse().unwrap()), 4_001_564_289);
    }
}
