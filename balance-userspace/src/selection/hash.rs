//! The classic's hash of a client's address, so that AF_INET6 clients keep the channel they had.
//!
//! Invariant: depends on the address alone, never on the port; IPv4 counts as its IPv6-mapped
//! form, so that a client has one channel whichever listener it arrives on.

use std::net::{IpAddr, Ipv6Addr};

/// Bytes behind the address in the classic's structure: the scope and eight zero bytes.
const PADDING: [u8; 12] = [0; 12];

/// Hash of a client's address: `h * 31 + byte`, bytes signed, modulo 2^32.
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
    fn it_gives_the_values_that_the_classic_gave() {
        assert_eq!(client_hash("::ffff:127.0.3.1".parse().unwrap()), 1_715_320_031);
        assert_eq!(client_hash("127.0.3.1".parse().unwrap()), 1_715_320_031);
        assert_eq!(client_hash("::1".parse().unwrap()), 4_001_564_289);
    }
}
