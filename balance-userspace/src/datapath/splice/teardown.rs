//! How a spliced connection ends when balance ends it, or when its peers have.
//!
//! Our sockets know nothing of what the peers have said to each other: what they say themselves has
//! numbers that nobody waits for. Invariant: they say nothing, but for a reset to a peer that may
//! still wait for bytes of ours; what is to be said to a peer is said by another socket, made with the
//! numbers that this peer waits for.
//!
//! A peer believes no reset but one with the number that it waits for. One of the other peer has another
//! number if bytes before it were lost, and may be far beyond its window: the other peer was promised
//! the room that our socket had before they were joined. What the peer has acknowledged tells which
//! number it is. If it has more by then, it acknowledges that soon, and is answered by the kernel.

use std::{
    cell::Cell,
    io,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use balance_ebpf::splice::ending;
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::debug;

use super::{
    slot::{Slot, Standing},
    tuple::Tuple,
};
use crate::{datapath::pair::Pair, io::stream::Stream, sys};

/// Lets both sockets give up their connections without a word: the peers have told each other. A new connection
/// between the same addresses meets nothing of them.
pub(super) fn silent(pair: &Pair) {
    for stream in [&pair.client, &pair.backend] {
        if sys::enter_repair(&**stream).is_ok() {
            let _ = sys::disconnect(&**stream);
        }
    }
}

/// Tells both peers that our direction has ended, unless it had already.
pub(super) fn end(slot: Slot, pair: &Pair) {
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    let words = [0, 1].map(|side| {
        let standing = slot.standing(side);
        let clock = clock(&slot, streams[side], side).ok().flatten();
        (!standing.is_over).then_some((slot.paths[side], standing.next, standing.received, clock))
    });
    silent(pair);
    say(slot, pair, words, |socket| socket.shutdown(Shutdown::Write));
}

/// Resets the peers, but for one that has done so itself.
pub(super) fn break_off(slot: Slot, pair: &Pair) {
    let endings = slot.endings();
    let is_told = |side: usize| endings & (ending::BROKEN << side) != 0;
    for (side, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
        // A socket whose bytes its peer may still wait for has a right number, and says it when it
        // is disconnected or closed.
        if slot.is_settled(side) {
            let _ = sys::enter_repair(&**stream);
        }
        if is_told(side) {
            // It may connect again at once: before packets pass to our sockets.
            let _ = sys::disconnect(&**stream);
        }
    }
    let words = [0, 1].map(|side| {
        let standing = slot.standing(side);
        // A receiver ignores the timestamp of a reset (RFC 7323, 3.2).
        (!is_told(side)).then_some((
            slot.paths[side],
            standing.acknowledged,
            standing.received,
            None,
        ))
    });
    say(slot, pair, words, |socket| socket.set_linger(Some(Duration::ZERO)));
}

/// Gives the socket of a side the numbers that both peers have acknowledged. It must be silent, and stays
/// so: a question with these numbers is an old one to a peer that is there, which answers it, and one that is
/// gone answers with the number of a reset that is believed.
/// `holds_port` says whether that has been done before: such a socket does not let go of its port.
///
/// # Errors
/// When the kernel refuses; the connection is to be given up then.
pub(super) fn renumber(
    slot: &Slot,
    pair: &Pair,
    side: usize,
    holds_port: &Cell<bool>,
) -> io::Result<()> {
    let stream = [&pair.client, &pair.backend][side];
    let (Standing { acknowledged, delivered, .. }, Tuple { own, peer }) =
        (slot.standing(side), slot.paths[side]);
    let clock = clock(slot, stream, side)?;
    // A socket for both families has addresses of its own kind.
    let is_mapped = stream.domain()? == Domain::IPV6;
    let address = |address: SocketAddr| match address {
        SocketAddr::V4(v4) if is_mapped => {
            SockAddr::from(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())))
        }
        _ => address.into(),
    };
    sys::enter_repair(&**stream)?;
    sys::disconnect(&**stream)?;
    // The kernel calls that an aborted connection (net/ipv4/tcp.c, `tcp_disconnect`).
    stream.take_error()?;
    sys::repair_connect(&**stream, acknowledged, delivered, clock, || {
        if !holds_port.replace(true) {
            stream.bind(&address(own))?;
        }
        stream.connect(&address(peer))
    })
}

/// The clock of the timestamps that a side's peer sees, where both use them.
fn clock(slot: &Slot, stream: &Stream, side: usize) -> io::Result<Option<u32>> {
    match slot.read().ways[side].side.stamped {
        0 => Ok(None),
        _ => Ok(Some(sys::timestamp_clock(stream)?.0)),
    }
}

/// Whom something is said to, with which numbers, and by which clock.
type Word = (Tuple, u32, u32, Option<u32>);

/// Says it through sockets made for that, which are closed then.
fn say(slot: Slot, pair: &Pair, words: [Option<Word>; 2], how: impl Fn(&Socket) -> io::Result<()>) {
    // Whatever a peer answers is for the kernel now.
    drop(slot);
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    for (stream, (path, next, received, clock)) in
        streams.into_iter().zip(words).filter_map(|(stream, word)| Some((stream, word?)))
    {
        let speak = || {
            // Its place is free then.
            sys::disconnect(stream)?;
            let socket = Socket::new(Domain::for_address(path.own), Type::STREAM, None)?;
            let connect = || {
                socket.bind(&path.own.into())?;
                socket.connect(&path.peer.into())
            };
            sys::repair_connect(&socket, next, received, clock, connect)?;
            how(&socket)
        };
        if let Err(error) = speak() {
            debug!(peer = %path.peer, %error, "cannot notify a peer of the end of its connection");
        }
    }
}
