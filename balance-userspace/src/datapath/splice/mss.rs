//! How large segments may be, so that those of one peer fit the path of the other.
//!
//! Nothing here cuts a segment in two, so each peer is told when its connection begins. Invariant:
//! nobody is told to send more than the kernel would have told it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::{io::stream::Stream, sys};

/// Bytes of the options that a packet with timestamps has, padding included.
const TIMESTAMPS: u32 = 12;

/// The largest that the kernel lets itself be told (include/net/tcp.h, MAX_TCP_WINDOW).
const LARGEST: u32 = 32767;

/// The largest segment that a client and the path to it take, in bytes with options, if that needs
/// to be said to a backend.
pub(crate) fn for_backend(client: &Stream) -> Option<u32> {
    // Without options.
    let now = sys::send_mss(client).ok().filter(|&now| now <= LARGEST)?;
    let agreed = sys::negotiated(client).ok()?;
    let segment = now + if agreed.has_timestamps() { TIMESTAMPS } else { 0 };
    // It is also small where the window is; that says nothing of the path.
    (agreed.path_mtu <= LARGEST && segment <= LARGEST).then_some(segment)
}

/// The largest segment that the paths to all of these backends take, in bytes with options, if that
/// needs to be said to clients: those on this host would send much larger ones.
pub(crate) fn for_clients(backends: impl Iterator<Item = SocketAddr>) -> Option<u32> {
    backends.filter_map(largest_to).min().filter(|&segment| segment <= LARGEST)
}

fn largest_to(address: SocketAddr) -> Option<u32> {
    let (own, headers): (SocketAddr, u32) = match address {
        SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), 40),
        SocketAddr::V6(_) => ((Ipv6Addr::UNSPECIFIED, 0).into(), 60),
    };
    // Nothing is sent: the kernel only looks for a route.
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
        assert!(largest_to(home).is_some_and(|segment| segment > LARGEST));
        assert_eq!(for_clients([home].into_iter()), None);
        assert_eq!(for_clients([].into_iter()), None);
    }
}
