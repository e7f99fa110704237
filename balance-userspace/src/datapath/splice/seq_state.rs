//! What two connections must have in common to be joined, and the numbers by which they are.
//!
//! Invariant: nothing here changes what a socket does; it is only asked.

use std::{cell::Cell, io};

use balance_ebpf::splice::{head, later};

use super::{ineligible::Obstacle, tuple::Tuple};
use crate::{
    io::stream::Stream,
    sys::{self, Negotiated, SequenceNumbers},
};

/// One of the two connections: what stays as it is for all its life.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) path: Tuple,
    /// What was agreed on when it began.
    pub(super) agreed: Negotiated,
    /// Hop limit and DSCP of this host's packets to the peer ([`head`]).
    pub(super) head: u32,
}

impl End {
    /// Asks a stream.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn of(stream: &Stream) -> io::Result<Self> {
        let path = Tuple { peer: stream.peer()?, own: stream.local()? };
        let (hops, class) = sys::hop_limit_and_traffic_class(stream, path.peer.is_ipv4())?;
        Ok(Self { path, agreed: sys::negotiated(stream)?, head: head(hops, class) })
    }

    /// Bytes of the IP and TCP headers without options.
    fn headers(&self) -> u32 {
        if self.path.peer.is_ipv4() { 40 } else { 60 }
    }
}

/// Why two connections cannot be joined.
pub(super) fn obstacle(ends: &[End; 2]) -> Option<Obstacle> {
    let [a, b] = ends;
    // What the peer of one may send has to fit the other's path.
    let fits = |a: &End, b: &End| a.agreed.advertised_mss + b.headers() <= b.agreed.path_mtu;
    if !a.agreed.established || !b.agreed.established {
        Some(Obstacle::Ended)
    } else if a.path.peer.is_ipv4() != b.path.peer.is_ipv4() {
        Some(Obstacle::Families)
    } else if a.agreed.options != b.agreed.options || a.agreed.has_fine_timestamps() {
        Some(Obstacle::Options)
    } else if !fits(a, b) || !fits(b, a) {
        Some(Obstacle::Segments)
    } else if a.path.is_link_local() || b.path.is_link_local() {
        Some(Obstacle::Device)
    } else {
        None
    }
}

/// The clock of a connection's timestamps, read as long as its numbers do not matter yet.
pub(super) struct Clock {
    first: (u32, u64),
    offset: Cell<Option<u32>>,
}

impl Clock {
    /// Takes the first of two readings.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn begin(stream: &Stream) -> io::Result<Self> {
        Ok(Self { first: sys::timestamp_clock(stream)?, offset: Cell::default() })
    }

    /// What is added to CLOCK_MONOTONIC, in whole milliseconds, to get the clock
    /// (include/net/tcp.h, tcp_clock_ts). Exact if it is asked for in a millisecond of the other kind than
    /// the one of the first reading, otherwise one too low at most, which Linux takes (TCP_PAWS_WINDOW); a
    /// stricter peer may take a packet for old, which is then sent again (RFC 7323, 5). Waiting for
    /// another millisecond would let so much come here that the connection could not be joined.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn offset(&self, stream: &Stream) -> io::Result<u32> {
        if let Some(offset) = self.offset.get() {
            return Ok(offset);
        }
        let second = sys::timestamp_clock(stream)?;
        self.offset.set(exact(self.first, second));
        Ok(self.offset.get().unwrap_or_else(|| offset(second)))
    }
}

/// The offset from one reading, which is even and may be one too low.
fn offset((clock, now): (u32, u64)) -> u32 {
    clock.wrapping_sub(now as u32)
}

/// The offset from two readings, each of which is even and may be one too low; `None` if both may
/// be.
fn exact(first: (u32, u64), second: (u32, u64)) -> Option<u32> {
    let are_of_both_kinds = (first.1 ^ second.1) & 1 == 1;
    are_of_both_kinds.then(|| later(offset(first), offset(second)))
}

/// Where a socket stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) numbers: SequenceNumbers,
    /// Bytes that were not yet read.
    pub(super) unread: u32,
}

impl Begun {
    /// Asks until nothing arrives in between.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn of(stream: &Stream) -> io::Result<Self> {
        loop {
            let before = sys::rcv_nxt(stream)?;
            let unread = sys::unread(stream)?;
            let numbers = sys::sequence_numbers(stream)?;
            if numbers.rcv_nxt == before {
                return Ok(Self { numbers, unread });
            }
        }
    }

    /// Number of the next byte that user space is to read.
    pub(super) fn read(&self) -> u32 {
        self.numbers.rcv_nxt.wrapping_sub(self.unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const MSS: u32 = 1460;

    fn end(address: &str) -> End {
        let agreed = Negotiated {
            established: true,
            options: 3,
            scales: (7, 7),
            advertised_mss: MSS,
            path_mtu: 1500,
        };
        let path = Tuple { peer: address.parse().unwrap(), own: address.parse().unwrap() };
        End { path, agreed, head: 0 }
    }

    #[test]
    fn the_lost_bit_of_a_timestamp_is_found() {
        for offset in [7u32, 8, u32::MAX, u32::MAX - 1] {
            let reading = |now: u64| (offset.wrapping_add(now as u32) & !1, now);
            for now in [1000, 1001] {
                assert_eq!(exact(reading(now), reading(now + 1)), Some(offset));
                assert_eq!(exact(reading(now), reading(now + 5)), Some(offset));
                assert_eq!(exact(reading(now), reading(now + 2)), None);
            }
        }
    }

    #[test]
    fn the_clock_of_timestamps_is_always_as_far_from_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let first = sys::timestamp_clock(&stream).unwrap();
        let until = sys::monotonic() + 20_000_000;
        let mut seen = Vec::new();
        while sys::monotonic() < until {
            seen.extend(exact(first, sys::timestamp_clock(&stream).unwrap()));
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    #[test]
    fn like_connections_can_be_joined() {
        let (client, backend) = (end("192.0.2.1:5"), end("192.0.2.2:6"));
        assert_eq!(obstacle(&[client, backend]), None);
    }

    #[test]
    fn each_difference_has_its_name() {
        let good = end("192.0.2.1:5");
        let with = |change: fn(&mut End)| {
            let mut bad = good;
            change(&mut bad);
            (obstacle(&[good, bad]), obstacle(&[bad, good]))
        };
        let both = |obstacle| (Some(obstacle), Some(obstacle));
        assert_eq!(with(|end| end.agreed.established = false), both(Obstacle::Ended));
        assert_eq!(with(|end| end.agreed.options = 2), both(Obstacle::Options));
        let mut fine = good;
        fine.agreed.options |= 64;
        assert_eq!(obstacle(&[fine, fine]), Some(Obstacle::Options));
        assert_eq!(with(|end| end.agreed.advertised_mss = MSS + 1), both(Obstacle::Segments));
        assert_eq!(with(|end| end.agreed.path_mtu = MSS + 39), both(Obstacle::Segments));
        let six = end("[2001:db8::1]:5");
        assert_eq!(obstacle(&[good, six]), Some(Obstacle::Families));
        let (mut near, mut far) = (end("[fe80::1]:5"), six);
        for end in [&mut near, &mut far] {
            end.agreed.advertised_mss = MSS - 20;
        }
        assert_eq!(obstacle(&[near, far]), Some(Obstacle::Device));
        assert_eq!(obstacle(&[far, far]), None);
        // Its headers are larger.
        assert_eq!(obstacle(&[six, six]), Some(Obstacle::Segments));
    }
}
