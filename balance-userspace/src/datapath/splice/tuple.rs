//! The addresses of one of the two connections of a pair.

use std::net::{IpAddr, SocketAddr};

use balance_ebpf::splice::Key;

/// The addresses of one of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) peer: SocketAddr,
    pub(super) own: SocketAddr,
}

impl Tuple {
    /// Whether the addresses mean something only together with an interface.
    pub(super) fn is_link_local(&self) -> bool {
        matches!(self.peer.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
    }

    /// How packets of the peer look.
    pub(super) fn arriving(&self) -> Key {
        Key::new(self.peer, self.own)
    }

    /// How packets to the peer look.
    pub(super) fn leaving(&self) -> Key {
        Key::new(self.own, self.peer)
    }
}
