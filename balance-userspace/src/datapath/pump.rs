//! Moves bytes from one stream to another through a buffer.
//!
//! Invariant: bytes leave in the order in which they came, and a buffer is held only while the
//! target has no room. Backpressure is TCP's own: what is not read stays with the sender.

use std::{io, rc::Rc};

use super::{
    buffers::{Buffer, Pool},
    pair::{Broken, Direction},
};
use crate::{ready, stream::Stream, sys};

/// What a turn of the pump found at the source.
pub(crate) enum Received {
    /// Bytes, in the buffer up to here.
    Bytes(Buffer, usize),
    /// Nothing at the moment.
    Nothing,
    /// The source has ended.
    End,
}

/// Takes what the source has, without waiting.
pub(crate) fn receive(direction: &Direction, pool: &Pool) -> Result<Received, Broken> {
    let mut buffer = pool.take();
    match sys::recv(&*direction.source, &mut buffer) {
        Ok(0) => Ok(Received::End),
        Ok(n) => Ok(Received::Bytes(buffer, n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(e) => Err(direction.source_broke(e)),
    }
}

/// Writes all of `bytes`, waiting for room as often as needed.
pub(crate) async fn send_all(target: &Rc<Stream>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sys::send(&**target, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                ready::writable(target).await?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits until the source has bytes or has ended.
pub(crate) async fn readable(direction: &Direction) -> Result<(), Broken> {
    ready::readable(&direction.source).await.map_err(|e| direction.source_broke(e))
}
