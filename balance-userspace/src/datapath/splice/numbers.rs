//! What two connections must have in common to be joined, and the numbers by which they are.
//!
//! Invariant: nothing here changes what a socket does; it is only asked.

use std::{io, net::SocketAddr};

use balance_ebpf::splice::Key;

use crate::{
    stream::Stream,
    sys::{self, Agreed},
};

/// One of the two connections, as it stands at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The peer's address.
    pub(super) peer: SocketAddr,
    /// Ours.
    pub(super) own: SocketAddr,
    /// What was agreed on when it began.
    pub(super) agreed: Agreed,
}

impl End {
    /// Asks a stream.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn of(stream: &Stream) -> io::Result<Self> {
        Ok(Self { peer: stream.peer()?, own: stream.own()?, agreed: sys::agreed(stream)? })
    }

    /// How packets of the peer find their splice.
    pub(super) fn arriving(&self) -> Key {
        key(self.peer, self.own)
    }

    /// How packets to the peer look.
    pub(super) fn leaving(&self) -> Key {
        key(self.own, self.peer)
    }
}

/// Why two connections cannot be joined.
pub(super) fn obstacle(client: &End, backend: &End) -> Option<&'static str> {
    let (a, b) = (&client.agreed, &backend.agreed);
    let is_here = |end: &End| end.peer.ip().is_loopback() || end.peer.ip() == end.own.ip();
    if !a.established || !b.established {
        Some("one side has ended already")
    } else if client.peer.is_ipv4() != backend.peer.is_ipv4() {
        Some("one side is IPv4, the other IPv6")
    } else if !is_here(client) || !is_here(backend) {
        Some("a peer is on another host")
    } else if a.options != b.options {
        Some("the sides did not agree on the same TCP options")
    } else if a.offered_mss > b.path_mtu || b.offered_mss > a.path_mtu {
        Some("one side's segments do not fit the other's path")
    } else {
        None
    }
}

fn key(source: SocketAddr, target: SocketAddr) -> Key {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.ip().octets());
            octets
        }
        SocketAddr::V6(address) => address.ip().octets(),
    };
    Key {
        source: octets(source),
        target: octets(target),
        source_port: source.port().to_be(),
        target_port: target.port().to_be(),
        version: if source.is_ipv4() { 4 } else { 6 },
    }
}
