//! How a spliced connection ends when balance ends it, or when its peers have.
//!
//! Our sockets know nothing of what the peers have said to each other: what they say themselves has
//! numbers that nobody waits for. Invariant: they say nothing, but for a reset to a peer that may
//! still wait for bytes of ours; what is to be said to a peer is said by another socket, made with the
//! numbers that this peer waits for.

use std::{io, net::Shutdown};

use socket2::{Domain, Socket, Type};
use tracing::debug;

use super::{
    kernel::Path,
    slot::{Slot, Standing},
};
use crate::{datapath::Pair, stream::Stream, sys};

/// Closes both sockets without a word: the peers have told each other.
pub(super) fn silent(pair: &Pair) {
    for stream in [&pair.client, &pair.backend] {
        let _ = sys::fall_silent(&**stream);
    }
}

/// Closes the sockets when one peer has been told of the other's reset. If that came before the
/// peer had all of our bytes, it was not one that it believes: our socket, which is to be reset when
/// it is closed, says it again with the number that the peer waits for.
pub(super) fn told(slot: &Slot, pair: &Pair) {
    for (side, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
        if slot.is_settled(side) {
            let _ = sys::fall_silent(&**stream);
        }
    }
}

/// Tells both peers that it is over: with a reset or, if it is orderly, with the end of our
/// direction, unless that has ended already.
pub(super) fn part(slot: Slot, pair: &Pair, orderly: bool) {
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    let standings = [slot.standing(0), slot.standing(1)];
    let paths = slot.paths;
    if orderly {
        silent(pair);
    } else {
        // The standing includes bytes that are yet to be passed on.
        told(&slot, pair);
    }
    // Whatever a peer answers is for the kernel now.
    drop(slot);
    for side in 0..2 {
        if orderly && standings[side].is_over {
            continue;
        }
        if let Err(error) = speak(streams[side], &paths[side], standings[side], orderly) {
            debug!(peer = %paths[side].peer, %error, "cannot tell a peer of the end");
        }
    }
}

fn speak(stream: &Stream, path: &Path, standing: Standing, orderly: bool) -> io::Result<()> {
    // Its place is free then.
    sys::disconnect(stream)?;
    let socket = Socket::new(Domain::for_address(path.own), Type::STREAM, None)?;
    let connect = || {
        socket.bind(&path.own.into())?;
        socket.connect(&path.peer.into())
    };
    sys::take_up(&socket, standing.next, standing.received, connect)?;
    if orderly {
        return socket.shutdown(Shutdown::Write);
    }
    socket.set_linger(Some(std::time::Duration::ZERO))
}
