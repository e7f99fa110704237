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

use std::{io, net::Shutdown, time::Duration};

use balance_ebpf::splice::ending;
use socket2::{Domain, Socket, Type};
use tracing::debug;

use super::{kernel::Path, slot::Slot};
use crate::{datapath::Pair, stream::Stream, sys};

/// Closes both sockets without a word: the peers have told each other.
pub(super) fn silent(pair: &Pair) {
    for stream in [&pair.client, &pair.backend] {
        let _ = sys::fall_silent(&**stream);
    }
}

/// Tells both peers that our direction has ended, unless it had already.
pub(super) fn end(slot: Slot, pair: &Pair) {
    silent(pair);
    let words = [0, 1].map(|side| {
        let standing = slot.standing(side);
        (!standing.is_over).then_some((slot.paths[side], standing.next, standing.received))
    });
    say(slot, pair, words, |socket| socket.shutdown(Shutdown::Write));
}

/// Resets the peers, but for one that has done so itself.
pub(super) fn break_off(slot: Slot, pair: &Pair) {
    for (side, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
        // A socket whose bytes its peer may still wait for has a right number, and says it when it
        // is disconnected or closed.
        if slot.is_settled(side) {
            let _ = sys::fall_silent(&**stream);
        }
    }
    let endings = slot.endings();
    let words = [0, 1].map(|side| {
        let standing = slot.standing(side);
        let is_told = endings & (ending::BROKEN << side) != 0;
        (!is_told).then_some((slot.paths[side], standing.acknowledged, standing.received))
    });
    say(slot, pair, words, |socket| socket.set_linger(Some(Duration::ZERO)));
}

/// Whom something is said to, with which numbers.
type Word = (Path, u32, u32);

/// Says it through sockets made for that, which are closed then.
fn say(slot: Slot, pair: &Pair, words: [Option<Word>; 2], how: impl Fn(&Socket) -> io::Result<()>) {
    // Whatever a peer answers is for the kernel now.
    drop(slot);
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    for (stream, (path, next, received)) in
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
            sys::take_up(&socket, next, received, connect)?;
            how(&socket)
        };
        if let Err(error) = speak() {
            debug!(peer = %path.peer, %error, "cannot tell a peer of the end");
        }
    }
}
