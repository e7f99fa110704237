//! The state of the two local sockets: whether their connections can be joined, and by which
//! numbers.
//!
//! Invariant: nothing here changes the behaviour of a socket. Sockets are only read.

use std::{cell::Cell, io};

use balance_ebpf::splice::{hop_limit_dscp, later};

use super::{ineligible::Ineligible, tuple::Tuple};
use crate::{
    datapath::side::PerSide,
    io::stream::Stream,
    sys::{self, Negotiated, SequenceNumbers},
};

/// The properties of a connection that never change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) tuple: Tuple,
    /// Options that the handshake negotiated.
    pub(super) agreed: Negotiated,
    /// Hop limit and DSCP of this host's packets to the peer ([`hop_limit_dscp`]).
    pub(super) hop_limit_dscp: u32,
}

impl Endpoint {
    /// Reads the properties of a stream.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn of(stream: &Stream) -> io::Result<Self> {
        let tuple = Tuple { peer: stream.peer()?, local: stream.local()? };
        let (hops, class) = sys::hop_limit_and_traffic_class(stream, tuple.peer.is_ipv4())?;
        let hop_limit_dscp = hop_limit_dscp(hops, class);
        Ok(Self { tuple, agreed: sys::negotiated(stream)?, hop_limit_dscp })
    }

    /// Bytes of the IP and TCP headers without options.
    fn headers(&self) -> u32 {
        if self.tuple.peer.is_ipv4() { 40 } else { 60 }
    }
}

/// Why two connections cannot be joined. `None` if they can.
pub(super) fn ineligible(ends: &PerSide<Endpoint>) -> Option<Ineligible> {
    let [a, b] = ends.as_ref().into_array();
    // The largest segment of each peer must fit the other's path.
    let fits =
        |a: &Endpoint, b: &Endpoint| a.agreed.advertised_mss + b.headers() <= b.agreed.path_mtu;
    if !a.agreed.established || !b.agreed.established {
        Some(Ineligible::Ended)
    } else if a.tuple.peer.is_ipv4() != b.tuple.peer.is_ipv4() {
        Some(Ineligible::Families)
    } else if a.agreed.options != b.agreed.options || a.agreed.has_fine_timestamps() {
        Some(Ineligible::Options)
    } else if !fits(a, b) || !fits(b, a) {
        Some(Ineligible::Segments)
    } else if a.tuple.is_link_local() || b.tuple.is_link_local() {
        Some(Ineligible::Interface)
    } else {
        None
    }
}

/// The clock of a connection's timestamps. Two readings make its offset exact.
pub(super) struct TimestampClock {
    first: (u32, u64),
    offset: Cell<Option<u32>>,
}

impl TimestampClock {
    /// Takes the first of the two readings.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn begin(stream: &Stream) -> io::Result<Self> {
        Ok(Self { first: sys::timestamp_clock(stream)?, offset: Cell::default() })
    }

    /// The offset that is added to CLOCK_MONOTONIC, in whole milliseconds, to get the clock
    /// (include/net/tcp.h, tcp_clock_ts).
    ///
    /// Exact if one of the two readings falls into an even millisecond and the other into an odd
    /// one. Otherwise at most one too low, which Linux accepts (TCP_PAWS_WINDOW). A stricter peer
    /// may reject a packet as old, and the packet is sent again (RFC 7323, 5). A wait for another
    /// millisecond would let too many bytes arrive here for a join.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn offset(&self, stream: &Stream) -> io::Result<u32> {
        if let Some(offset) = self.offset.get() {
            return Ok(offset);
        }
        let second = sys::timestamp_clock(stream)?;
        self.offset.set(exact(self.first, second));
        Ok(self.offset.get().unwrap_or_else(|| offset(second)))
    }
}

/// The offset by one reading. The reading is even and may be one too low.
fn offset((clock, now): (u32, u64)) -> u32 {
    clock.wrapping_sub(now as u32)
}

/// The offset by two readings. Each reading is even and may be one too low. `None` if both may be.
fn exact(first: (u32, u64), second: (u32, u64)) -> Option<u32> {
    let are_even_and_odd = (first.1 ^ second.1) & 1 == 1;
    are_even_and_odd.then(|| later(offset(first), offset(second)))
}

/// The sequence state of a local socket when forwarding begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartState {
    pub(super) numbers: SequenceNumbers,
    /// Bytes that user space has not read yet.
    pub(super) unread: u32,
}

impl StartState {
    /// Reads the state, again if a packet arrives in between.
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

    /// Sequence number of the next byte that user space reads.
    pub(super) fn read_seq(&self) -> u32 {
        self.numbers.rcv_nxt.wrapping_sub(self.unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const MSS: u32 = 1460;

    fn end(address: &str) -> Endpoint {
        let agreed = Negotiated {
            established: true,
            options: 3,
            scales: (7, 7),
            advertised_mss: MSS,
            path_mtu: 1500,
        };
        let tuple = Tuple { peer: address.parse().unwrap(), local: address.parse().unwrap() };
        Endpoint { tuple, agreed, hop_limit_dscp: 0 }
    }

    fn reason(client: Endpoint, backend: Endpoint) -> Option<Ineligible> {
        ineligible(&PerSide::new(client, backend))
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
    fn the_timestamp_clock_has_a_constant_offset() {
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
    fn similar_connections_can_be_joined() {
        let (client, backend) = (end("192.0.2.1:5"), end("192.0.2.2:6"));
        assert_eq!(reason(client, backend), None);
    }

    #[test]
    fn each_difference_has_its_own_reason() {
        let good = end("192.0.2.1:5");
        let with = |change: fn(&mut Endpoint)| {
            let mut bad = good;
            change(&mut bad);
            (reason(good, bad), reason(bad, good))
        };
        let both = |reason| (Some(reason), Some(reason));
        assert_eq!(with(|end| end.agreed.established = false), both(Ineligible::Ended));
        assert_eq!(with(|end| end.agreed.options = 2), both(Ineligible::Options));
        let mut fine = good;
        fine.agreed.options |= 64;
        assert_eq!(reason(fine, fine), Some(Ineligible::Options));
        assert_eq!(with(|end| end.agreed.advertised_mss = MSS + 1), both(Ineligible::Segments));
        assert_eq!(with(|end| end.agreed.path_mtu = MSS + 39), both(Ineligible::Segments));
        let six = end("[2001:db8::1]:5");
        assert_eq!(reason(good, six), Some(Ineligible::Families));
        let (mut near, mut far) = (end("[fe80::1]:5"), six);
        for end in [&mut near, &mut far] {
            end.agreed.advertised_mss = MSS - 20;
        }
        assert_eq!(reason(near, far), Some(Ineligible::Interface));
        assert_eq!(reason(far, far), None);
        // The IPv6 header is larger.
        assert_eq!(reason(six, six), Some(Ineligible::Segments));
    }
}
