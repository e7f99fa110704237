//! Moves bytes from one stream to another through a buffer.
//!
//! Invariants: bytes leave in the order in which they arrived. A buffer is held only while the
//! target has no room. The backpressure is TCP's own: bytes that are not read stay with the sender.

use std::{io, time::Duration};

use tokio::{select, time::sleep};

use super::{
    buffers::{Buffer, BufferPool},
    stall,
};
use crate::datapath::{direction::Direction, end::SideError};
use crate::{io::ready, sys};

/// The result of a read.
pub(crate) enum Received {
    /// A buffer, and the number of bytes in it.
    Bytes(Buffer, usize),
    /// The receive queue is empty.
    Nothing,
    /// The source has sent FIN.
    End,
}

/// Reads from the source, without waiting.
pub(crate) fn receive(direction: &Direction, pool: &BufferPool) -> Result<Received, SideError> {
    let mut buffer = pool.take();
    match sys::recv(&*direction.source, &mut buffer) {
        // The kernel reports an error once, to any call, and the end of the stream from then on.
        Ok(0) if direction.source.is_broken() => {
            Err(direction.source_error(io::ErrorKind::ConnectionReset.into()))
        }
        Ok(0) => Ok(Received::End),
        Ok(n) => Ok(Received::Bytes(buffer, n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(e) => Err(direction.source_error(e)),
    }
}

/// Writes all of `bytes` to the target, and waits for room as often as needed.
///
/// The source is not read until the target has room, which may be never. So the source is watched
/// for errors. Once it has failed, the target must accept bytes now and then.
pub(crate) async fn send_all(direction: &Direction, mut bytes: &[u8]) -> Result<(), SideError> {
    while !bytes.is_empty() {
        match sys::send(&*direction.target, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // Boxed: most connections never wait here.
                let source_error = Box::pin(wait_for_source_error(direction));
                select! {
                    biased;
                    room = ready::writable(&direction.target) => {
                        room.map_err(|e| direction.target_error(e))?;
                    }
                    error = source_error => stall::writable(direction, error).await?,
                }
            }
            Err(e) => return Err(direction.target_error(e)),
        }
    }
    Ok(())
}

/// The delay before a side is watched. Watching costs system calls, and most waits, and most
/// half-closed connections, are over within this time.
const WATCH_DELAY: Duration = Duration::from_millis(20);

/// Waits until a source that is not read fails.
pub(crate) async fn wait_for_source_error(direction: &Direction) -> SideError {
    if direction.source.is_broken() {
        return take_source_error(direction);
    }
    sleep(WATCH_DELAY).await;
    match ready::broken(&direction.source).await {
        Ok(()) => take_source_error(direction),
        Err(error) => direction.source_error(error),
    }
}

/// Checks whether a source that is not read has failed.
pub(crate) fn check_source(direction: &Direction) -> Result<(), SideError> {
    if direction.source.is_broken() {
        return Err(take_source_error(direction));
    }
    match sys::poll_now(&*direction.source, 0) {
        Ok(events) if events & libc::POLLERR == 0 => Ok(()),
        Ok(_) => Err(take_source_error(direction)),
        Err(error) => Err(direction.source_error(error)),
    }
}

/// The error of a source that has failed.
fn take_source_error(direction: &Direction) -> SideError {
    direction.source_error(match direction.source.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    })
}

/// Waits until the source has bytes to read or has sent FIN.
pub(crate) async fn readable(direction: &Direction) -> Result<(), SideError> {
    ready::readable(&direction.source).await.map_err(|e| direction.source_error(e))
}
