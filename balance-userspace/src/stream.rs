//! One end of a connection, client or backend, and the options its socket is made with.
//!
//! Invariant: a stream is reset when it is closed, unless [`Stream::close_cleanly`] was called
//! before. So whatever goes wrong, a panic or a kill included, no peer mistakes a truncated
//! stream for a complete one.

use std::{
    cell::OnceCell,
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use socket2::Socket;

use crate::{datapath::sockmap::Lease, sys};

/// Receive buffer, in bytes as the kernel counts them (payload and bookkeeping). Bounds what
/// piles up behind a receiver that stands still; the window of a long fat pipe fits.
const RECEIVE_BUFFER: i32 = 6 << 20;

/// An established connection with a client or a backend.
///
/// Dropped when the last pending operation on it has completed.
#[derive(Debug)]
pub(crate) struct Stream {
    // Before `lease`: fields are dropped in order, and the slots may only be used anew when
    // the kernel knows the socket no more.
    socket: Socket,
    lease: OnceCell<Rc<Lease>>,
}

impl Stream {
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Rc<Self> {
        Rc::new(Self { socket: socket.into().into(), lease: OnceCell::new() })
    }

    /// Keeps the slots of the connection in the kernel's maps for as long as the stream is open.
    pub(crate) fn hold(&self, lease: Rc<Lease>) {
        let _ = self.lease.set(lease);
    }

    /// Says that everything was delivered: closing ends the connection in an orderly way.
    pub(crate) fn close_cleanly(&self) -> io::Result<()> {
        self.socket.set_linger(None)
    }
}

impl Deref for Stream {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How sockets of this process are made; a listener hands its options down to the sockets it
/// accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// Send buffer that the datapath asks for, in bytes as the kernel counts them; `None`
    /// leaves the size to the kernel.
    pub(crate) send_buffer: Option<i32>,
}

impl SocketOptions {
    /// Sets everything on a listener, or on a socket that is about to connect.
    pub(crate) fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        if let Some(size) = self.send_buffer {
            set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, size)?;
        }
        Ok(())
    }
}

/// Sets a buffer size, beyond the system's limit where we may.
fn set_buffer(socket: &Socket, force: i32, plain: i32, size: i32) -> io::Result<()> {
    // The kernel doubles what it is told (net/core/sock.c, sock_setsockopt).
    let half = size / 2;
    sys::set_int(socket, libc::SOL_SOCKET, force, half)
        .or_else(|_| sys::set_int(socket, libc::SOL_SOCKET, plain, half))
}
