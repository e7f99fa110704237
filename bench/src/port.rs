//! Free ports to listen on.
//!
//! Invariants: the ports are below the ephemeral range, so no connection under load takes a port
//! between its choice and its use. A run uses no port twice.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, bail};

/// The first port and the number of ports.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static TAKEN: AtomicU16 = AtomicU16::new(0);

/// Returns the next port that is free on loopback and in every new network namespace.
pub(crate) fn next_free() -> Result<u16> {
    // Concurrent runs start at different ports.
    let start = (process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let nth = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_mul(131).wrapping_add(nth) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("none of the {COUNT} ports from {FIRST} is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_below_the_ephemeral_range() {
        let [a, b] = [next_free().unwrap(), next_free().unwrap()];
        assert_ne!(a, b);
        assert!((FIRST..FIRST + COUNT).contains(&a));
    }
}
