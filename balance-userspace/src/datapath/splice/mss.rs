//! The maximum segment size (MSS) that each peer is offered, so that its segments fit the path of
//! the other peer.
//!
//! The program never splits a segment, so the MSS is set when a connection begins. Invariant: no
//! peer is offered a larger MSS than the kernel would have offered.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::{io::stream::Stream, sys};

/// Bytes of the timestamp option, padding included.
const TIMESTAMPS: u32 = 12;

/// The largest value that the kernel accepts (include/net/tcp.h, MAX_TCP_WINDOW).
const MAX_MSS: u32 = 32767;

/// The largest segment that a client and its path take, in bytes with options. `None` if the
/// backend needs no limit.
pub(crate) fn for_backend(client: &Stream) -> Option<u32> {
    // Without the bytes of the options.
    let now = sys::send_mss(client).ok().filter(|&now| now <= MAX_MSS)?;
    let agreed = sys::negotiated(client).ok()?;
    let segment = now + if agreed.has_timestamps() { TIMESTAMPS } else { 0 };
    // A small window also makes the value small, and says nothing about the path.
    (agreed.path_mtu <= MAX_MSS && segment <= MAX_MSS).then_some(segment)
}

/// The largest segment that the paths to all of these backends take, in bytes with options. `None`
/// if clients need no limit. Without a limit, clients on this host would send much larger segments.
pub(crate) fn for_clients(backends: impl Iterator<Item = SocketAddr>) -> Option<u32> {
    backends.filter_map(largest_to).min().filter(|&segment| segment <= MAX_MSS)
}

fn largest_to(address: SocketAddr) -> Option<u32> {
    let (own, headers): (SocketAddr, u32) = match address {
        SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), 40),
        SocketAddr::V6(_) => ((Ipv6Addr::UNSPECIFIED, 0).into(), 60),
    };
    // This sends no packet: the kernel only looks up a route.
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect(address).ok()?;
    sys::path_mtu(&socket, address.is_ipv4()).ok()?.checked_sub(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_needs_no_limit() {
        let home: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
        assert!(largest_to(home).is_some_and(|segment| segment > MAX_MSS));
        assert_eq!(for_clients([home].into_iter()), None);
        assert_eq!(for_clients([].into_iter()), None);
    }
}
