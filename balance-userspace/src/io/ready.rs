//! Waits for the readiness of a stream.
//!
//! A wait uses the worker's io_uring where that is possible. A poll of the ring always completes on
//! the peer's FIN as well (io_uring/poll.c, IO_POLL_UNMASK), so two waits use the runtime's epoll
//! instead: waits for anything else on a half-closed stream, and waits that are frequent.
//!
//! Invariant: a wait returns only after its event or an error, so no caller spins.

use std::{io, rc::Rc};

use socket2::Socket;
use tokio::io::{Interest, unix::AsyncFdReadyGuard};

use crate::{
    io::{
        epoll::Registered,
        ring,
        stream::{Registration, Stream},
    },
    sys,
};

/// Waits until the stream has bytes to read or the peer has sent FIN.
pub(crate) async fn readable(stream: &Rc<Stream>) -> io::Result<()> {
    ring::poll(stream, libc::POLLIN).await.map(drop)
}

/// Waits like [`readable`], through the runtime's epoll. Epoll needs a system call to register a
/// stream, the ring needs one for each wait, so this is for streams with many waits.
pub(crate) async fn readable_epoll(stream: &Registration) -> io::Result<ReadGuard<'_>> {
    Ok(ReadGuard(stream.ready(Interest::READABLE | Interest::PRIORITY).await?))
}

/// A completed [`readable_epoll`]. The next wait completes at once, unless one of the methods here
/// has cleared the readiness.
pub(crate) struct ReadGuard<'a>(AsyncFdReadyGuard<'a, Registered<Rc<Socket>>>);

impl ReadGuard<'_> {
    /// The read returned fewer bytes than the buffer has room for: the next wait is for new bytes.
    /// With urgent data the readiness stays, because a read ends in front of the urgent byte
    /// (net/ipv4/tcp.c, tcp_recvmsg_locked).
    pub(crate) fn read_was_short(&mut self) {
        if !self.0.ready().is_priority() {
            self.0.clear_ready();
        }
    }

    /// The read found nothing: the next wait is for new bytes.
    pub(crate) fn read_would_block(&mut self) {
        self.0.clear_ready();
    }
}

/// Waits until the peer has sent FIN. Data alone does not complete the wait.
pub(crate) async fn ended(stream: &Rc<Stream>) -> io::Result<()> {
    ring::poll(stream, libc::POLLRDHUP).await.map(drop)
}

/// Waits until the send buffer has room.
pub(crate) async fn writable(stream: &Rc<Stream>) -> io::Result<()> {
    let wanted = libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
    if ring::poll(stream, libc::POLLOUT).await? & wanted != 0 {
        return Ok(());
    }
    // The ring completed on the peer's FIN.
    let registration = stream.registration()?;
    loop {
        let mut ready = registration.writable().await?;
        // The runtime may remember the readiness of an earlier wait, so confirm the result with
        // poll(2).
        let now = ready.try_io(|_| match sys::poll_now(&**stream, wanted)? & wanted {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        });
        if let Ok(result) = now {
            return result;
        }
    }
}

/// Waits until the socket has an error. The peer's FIN does not complete the wait.
pub(crate) async fn broken(stream: &Rc<Stream>) -> io::Result<()> {
    stream.registration()?.ready(Interest::ERROR).await.map(drop)
}
