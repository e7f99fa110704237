//! The addresses of one of the two connections of a pair.
//!
//! Invariant: both addresses are of one family.

use std::net::{IpAddr, SocketAddr};

use balance_ebpf::splice::PacketTuple;

/// The addresses of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) peer: SocketAddr,
    /// This host's.
    pub(super) local: SocketAddr,
}

impl Tuple {
    /// Whether the addresses are valid only together with an interface.
    pub(super) fn is_link_local(&self) -> bool {
        matches!(self.peer.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
    }

    /// The tuple of packets from the peer.
    pub(super) fn arriving(&self) -> PacketTuple {
        PacketTuple::new(self.peer, self.local)
    }

    /// The tuple of packets to the peer.
    pub(super) fn leaving(&self) -> PacketTuple {
        PacketTuple::new(self.local, self.peer)
    }
}
