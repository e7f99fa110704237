//! Waiting for a stream to become ready.
//!
//! Through the worker's io_uring where that can be; its polls always report the end of the
//! peer's side as well (io_uring/poll.c, IO_POLL_UNMASK), so two waits on a half-closed stream
//! go through the runtime's epoll, as do waits that come in great numbers. Invariant: no wait
//! returns before what it is for, or an error, has come; so no caller spins.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    rc::Rc,
};

use socket2::Socket;
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

use crate::{
    io::{
        ring,
        stream::{Registration, Stream},
    },
    sys,
};

/// Waits until there is something to read, or the peer has ended its side.
pub(crate) async fn readable(stream: &Rc<Stream>) -> io::Result<()> {
    ring::poll(stream, libc::POLLIN).await.map(drop)
}

/// Waits as [`readable`] does, through the runtime's epoll, which is told once where the ring is
/// told each time: for a stream that is waited on again and again.
pub(crate) async fn readable_again(stream: &Registration) -> io::Result<Guard<'_>> {
    Ok(Guard(stream.ready(Interest::READABLE | Interest::PRIORITY).await?))
}

/// A wait that is over. The next one is over at once unless this one was said to be used up.
pub(crate) struct Guard<'a>(AsyncFdReadyGuard<'a, Registered<Rc<Socket>>>);

impl Guard<'_> {
    /// There was less to read than there was room for, so the next wait is for something new.
    /// Not so where there is urgent data: a read ends before it (net/ipv4/tcp.c,
    /// tcp_recvmsg_locked).
    pub(crate) fn was_short(&mut self) {
        if !self.0.ready().is_priority() {
            self.0.clear_ready();
        }
    }

    /// There was nothing to read.
    pub(crate) fn was_empty(&mut self) {
        self.0.clear_ready();
    }
}

/// Waits until the peer has ended its side. Data alone does not wake this one up.
pub(crate) async fn ended(stream: &Rc<Stream>) -> io::Result<()> {
    ring::poll(stream, libc::POLLRDHUP).await.map(drop)
}

/// Waits until there is room to write.
pub(crate) async fn writable(stream: &Rc<Stream>) -> io::Result<()> {
    let settled = libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
    if ring::poll(stream, libc::POLLOUT).await? & settled != 0 {
        return Ok(());
    }
    let registration = stream.registration()?;
    loop {
        let mut ready = registration.writable().await?;
        // What the runtime remembers may be from an earlier wait.
        let now = ready.try_io(|_| match sys::poll_now(&**stream, settled)? & settled {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        });
        if let Ok(result) = now {
            return result;
        }
    }
}

/// Waits until the connection is broken, whether or not the peer has ended its side.
pub(crate) async fn broken(stream: &Rc<Stream>) -> io::Result<()> {
    stream.registration()?.ready(Interest::ERROR).await.map(drop)
}

/// Registers a descriptor with the runtime's epoll, for as long as the result is kept. One
/// descriptor can be registered once at a time.
pub(crate) fn register<T: AsFd>(
    owner: T,
    interest: Interest,
) -> io::Result<AsyncFd<Registered<T>>> {
    // SAFETY: the result owns `owner`, which keeps its descriptor open and the same.
    Ok(unsafe { AsyncFd::register_with_interest(Registered(owner), interest) }?)
}

/// Something whose descriptor is registered.
#[derive(Debug)]
pub(crate) struct Registered<T>(T);

impl<T: AsFd> AsRawFd for Registered<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
