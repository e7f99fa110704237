//! The end of a spliced connection, by balance or by its peers.
//!
//! The local sockets do not know the sequence numbers that the peers have exchanged. Their sequence
//! numbers are stale, so they must not transmit. Invariant: they transmit nothing, except for a RST
//! to a peer that may still wait for bytes of the local socket. Every other packet to a peer comes
//! from a new socket with the sequence numbers that the peer expects.
//!
//! A peer accepts a RST only with the number that it expects. A RST that the other peer sent has
//! another number if bytes before it were lost. The number may be far beyond the peer's window,
//! because the other peer was offered the window of the local socket before the join. The last
//! acknowledgement of the peer is the number that the peer expects. If the peer has received more
//! by then, it soon acknowledges that, and the kernel answers with a RST.

use std::{
    cell::Cell,
    io,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use balance_ebpf::splice::{Phase, ending};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::debug;

use super::{
    slot::{LocalEnd, Slot},
    tuple::Tuple,
};
use crate::{
    datapath::{
        pair::Pair,
        side::{PerSide, Side},
    },
    io::stream::Stream,
    sys,
};

/// Closes both connections without a packet, because the peers have ended them with each other. A
/// new connection between the same addresses finds no leftover of them.
pub(super) fn close_silently(pair: &Pair) {
    for side in Side::BOTH {
        let stream = &**pair.stream(side);
        if sys::enter_repair(stream).is_ok() {
            let _ = sys::disconnect(stream);
        }
    }
}

/// Sends each peer a FIN, unless it has already received one.
pub(super) fn end(slot: &Slot, pair: &Pair) {
    let clocks = PerSide::from_fn(|side| clock(slot, pair.stream(side), side).ok().flatten());
    close_silently(pair);
    slot.set_phase(Phase::Local);
    let finals = PerSide::from_fn(|side| {
        let LocalEnd { next, received, has_ended, .. } = slot.local_end(side);
        let (tuple, clock) = (slot.tuples[side], clocks[side]);
        (!has_ended).then_some(FinalState { tuple, next, received, clock })
    });
    transmit(&finals, |socket| socket.shutdown(Shutdown::Write));
}

/// Resets both peers, except for a peer that has itself sent a RST.
pub(super) async fn reset(slot: &Slot, pair: &Pair) {
    for side in Side::BOTH {
        let stream = &**pair.stream(side);
        // A local socket whose bytes the peer may still wait for has the right number, and sends a
        // RST.
        if slot.is_drained(side) {
            let _ = sys::enter_repair(stream);
        }
        let _ = sys::disconnect(stream);
    }
    // The addresses are free now. From here on the kernel answers a packet of a peer with a RST
    // that has the right number.
    slot.set_phase(Phase::Local);
    let ends = PerSide::from_fn(|side| {
        (!slot.has_ending(ending::RESET, side)).then(|| slot.local_end(side))
    });
    reset_peers(slot, &ends);
    let is_behind = |end: LocalEnd| end.acknowledged != end.next;
    if ends.iter().any(|(_, end)| end.is_some_and(is_behind)) {
        // On another processor the program may have forwarded an acknowledgement meanwhile, whose
        // sender ignored the RST.
        slot.kernel.grace_periods.wait().await;
        let later = PerSide::from_fn(|side| {
            let (before, now) = (ends[side]?, slot.local_end(side));
            (now.acknowledged != before.acknowledged).then_some(now)
        });
        reset_peers(slot, &later);
    }
}

/// Sends a RST to the peer of each side that has an end of its connection here.
fn reset_peers(slot: &Slot, ends: &PerSide<Option<LocalEnd>>) {
    let finals = PerSide::from_fn(|side| {
        let LocalEnd { acknowledged: next, received, .. } = ends[side]?;
        // A receiver ignores the timestamp of a RST (RFC 7323, 3.2).
        Some(FinalState { tuple: slot.tuples[side], next, received, clock: None })
    });
    transmit(&finals, |socket| socket.set_linger(Some(Duration::ZERO)));
}

/// Gives the local socket of a side the numbers that both peers have acknowledged. The socket must
/// be silent, and stays silent. To a peer that is alive, a probe with these numbers is old, and the
/// peer answers it. A peer that has lost the connection answers with a RST whose number is valid.
///
/// `holds_port` says whether the call was made before for this socket: such a socket keeps its
/// port.
///
/// # Errors
/// When the kernel refuses. The connection must be given up then.
pub(super) fn renumber(
    slot: &Slot,
    pair: &Pair,
    side: Side,
    holds_port: &Cell<bool>,
) -> io::Result<()> {
    let stream = &**pair.stream(side);
    let LocalEnd { acknowledged, delivered, .. } = slot.local_end(side);
    let Tuple { local, peer } = slot.tuples[side];
    let clock = clock(slot, stream, side)?;
    // A dual-stack socket needs IPv4 addresses in mapped form.
    let is_mapped = stream.domain()? == Domain::IPV6;
    let address = |address: SocketAddr| match address {
        SocketAddr::V4(v4) if is_mapped => {
            SockAddr::from(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())))
        }
        _ => address.into(),
    };
    sys::enter_repair(stream)?;
    sys::disconnect(stream)?;
    // The kernel reports an aborted connection (net/ipv4/tcp.c, `tcp_disconnect`).
    stream.take_error()?;
    sys::repair_connect(stream, acknowledged, delivered, clock, || {
        if !holds_port.replace(true) {
            stream.bind(&address(local))?;
        }
        stream.connect(&address(peer))
    })
}

/// The clock of the timestamps that a side's peer receives. `None` if the connection has no
/// timestamps.
fn clock(slot: &Slot, stream: &Stream, side: Side) -> io::Result<Option<u32>> {
    match slot.has_timestamps(side) {
        false => Ok(None),
        true => Ok(Some(sys::timestamp_clock(stream)?.0)),
    }
}

/// The state of a connection in which its last packet is sent to the peer.
struct FinalState {
    tuple: Tuple,
    /// Sequence number of the packet.
    next: u32,
    /// Acknowledgement number of the packet.
    received: u32,
    /// Clock of the timestamps.
    clock: Option<u32>,
}

/// Makes a new socket for each peer with its final state. `send` makes the socket send the packet,
/// at once or when it is closed here. The addresses must be free.
fn transmit(finals: &PerSide<Option<FinalState>>, send: impl Fn(&Socket) -> io::Result<()>) {
    for (_, last) in finals.iter() {
        let Some(FinalState { tuple, next, received, clock }) = last else { continue };
        let transmit = || {
            let socket = Socket::new(Domain::for_address(tuple.local), Type::STREAM, None)?;
            let connect = || {
                socket.bind(&tuple.local.into())?;
                socket.connect(&tuple.peer.into())
            };
            sys::repair_connect(&socket, *next, *received, *clock, connect)?;
            send(&socket)
        };
        if let Err(error) = transmit() {
            debug!(peer = %tuple.peer, %error, "cannot notify a peer of the end of its connection");
        }
    }
}
