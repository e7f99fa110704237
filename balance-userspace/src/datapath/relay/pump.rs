//! Moves bytes from one stream to another through a buffer.
//!
//! Invariant: bytes leave in the order in which they came, and a buffer is held only while the
//! target has no room. Backpressure is TCP's own: what is not read stays with the sender.

use std::{io, time::Duration};

use tokio::{select, time::sleep};

use super::{
    buffers::{Buffer, BufferPool},
    patience,
};
use crate::datapath::{direction::Direction, end::SideError};
use crate::{io::ready, sys};

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
pub(crate) fn receive(direction: &Direction, pool: &BufferPool) -> Result<Received, SideError> {
    let mut buffer = pool.take();
    match sys::recv(&*direction.source, &mut buffer) {
        // The kernel tells an error once, to whichever call comes first, and an end from then on.
        Ok(0) if direction.source.is_broken() => {
            Err(direction.source_error(io::ErrorKind::ConnectionReset.into()))
        }
        Ok(0) => Ok(Received::End),
        Ok(n) => Ok(Received::Bytes(buffer, n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(e) => Err(direction.source_error(e)),
    }
}

/// Writes all of `bytes` to the target, waiting for room as often as needed. A source that breaks
/// meanwhile is not read until there is room, which may be never: so it is watched, and once it has
/// broken the target has to take something now and then.
pub(crate) async fn send_all(direction: &Direction, mut bytes: &[u8]) -> Result<(), SideError> {
    while !bytes.is_empty() {
        match sys::send(&*direction.target, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // On the heap: a connection on which nothing stands still does without.
                let broken = Box::pin(watch(direction));
                select! {
                    biased;
                    room = ready::writable(&direction.target) => {
                        room.map_err(|e| direction.target_error(e))?;
                    }
                    broken = broken => patience::room(direction, broken).await?,
                }
            }
            Err(e) => return Err(direction.target_error(e)),
        }
    }
    Ok(())
}

/// How long it may take until a side is watched: most waits, and connections of which one side has
/// ended, are over by then, and watching costs system calls.
const LINGERING: Duration = Duration::from_millis(20);

/// Waits until a source that is not read breaks.
pub(crate) async fn watch(direction: &Direction) -> SideError {
    if direction.source.is_broken() {
        return why_broken(direction);
    }
    sleep(LINGERING).await;
    match ready::broken(&direction.source).await {
        Ok(()) => why_broken(direction),
        Err(error) => direction.source_error(error),
    }
}

/// Whether a source that is not read has broken by now.
pub(crate) fn look(direction: &Direction) -> Result<(), SideError> {
    if direction.source.is_broken() {
        return Err(why_broken(direction));
    }
    match sys::poll_now(&*direction.source, 0) {
        Ok(events) if events & libc::POLLERR == 0 => Ok(()),
        Ok(_) => Err(why_broken(direction)),
        Err(error) => Err(direction.source_error(error)),
    }
}

/// What a source that has broken says of it.
fn why_broken(direction: &Direction) -> SideError {
    direction.source_error(match direction.source.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    })
}

/// Waits until the source has bytes or has ended.
pub(crate) async fn readable(direction: &Direction) -> Result<(), SideError> {
    ready::readable(&direction.source).await.map_err(|e| direction.source_error(e))
}
