//! One end of a connection, client or backend, and the options its socket is made with.
//!
//! Invariant: a stream is reset when it is closed, unless [`Stream::close_cleanly`] was called
//! before. So whatever goes wrong, a panic or a kill included, no peer mistakes a truncated
//! stream for a complete one.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt, io,
    net::SocketAddr,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    io::{
        loops::Known,
        ready::{self, Registered},
    },
    sys,
};

/// Receive buffer, in bytes as the kernel counts them (payload and bookkeeping). Bounds what
/// piles up behind a receiver that stands still; the window of a long fat pipe fits.
const RECEIVE_BUFFER: i32 = 11 << 18;

/// A stream's place in the runtime's epoll.
pub(crate) type Registration = AsyncFd<Registered<Rc<Socket>>>;

/// An established connection with a client or a backend.
///
/// Dropped when the last pending operation on it has completed.
#[derive(Debug)]
pub(crate) struct Stream {
    broken: Cell<Option<io::ErrorKind>>,
    registration: RefCell<Option<Rc<Registration>>>,
    // Fields are dropped in this order: the registration while the descriptor is open, then the
    // socket, then what is kept, such as slots that may be used again only when the kernel no longer
    // knows the socket, and the entry in `Loops`.
    socket: Rc<Socket>,
    kept: OnceCell<Rc<dyn fmt::Debug>>,
    known: OnceCell<Known>,
}

impl Stream {
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Rc<Self> {
        Rc::new(Self {
            broken: Cell::default(),
            registration: RefCell::default(),
            socket: Rc::new(socket.into().into()),
            kept: OnceCell::new(),
            known: OnceCell::new(),
        })
    }

    /// Notes the first error of the connection. The kernel reports an error once; after that, the end of
    /// the received bytes looks like an end of the stream.
    pub(crate) fn mark_broken(&self, kind: io::ErrorKind) {
        if self.broken.get().is_none() {
            self.broken.set(Some(kind));
        }
    }

    /// The first error of the connection, if there was one. Bytes that arrived before can still be
    /// received.
    pub(crate) fn broken(&self) -> Option<io::ErrorKind> {
        self.broken.get()
    }

    /// Whether there was an error.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        canonical(self.socket.peer_addr()?)
    }

    /// Our address.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn own(&self) -> io::Result<SocketAddr> {
        canonical(self.socket.local_addr()?)
    }

    /// Keeps what belongs to the connection for as long as the stream is open.
    pub(crate) fn hold(&self, kept: Rc<dyn fmt::Debug>) {
        let _ = self.kept.set(kept);
    }

    /// Keeps an outgoing connection known for as long as the stream is open.
    pub(crate) fn keep(&self, known: Known) {
        let _ = self.known.set(known);
    }

    /// The stream's place in the runtime's epoll, for the waits that the ring cannot do or that
    /// would cost more there; made when it is first asked for.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(crate) fn registration(&self) -> io::Result<Rc<Registration>> {
        let mut registration = self.registration.borrow_mut();
        if let Some(made) = &*registration {
            return Ok(Rc::clone(made));
        }
        let interest = Interest::READABLE | Interest::PRIORITY | Interest::WRITABLE;
        let made = Rc::new(ready::register(Rc::clone(&self.socket), interest)?);
        Ok(Rc::clone(registration.insert(made)))
    }

    /// Gives that place up, when nobody waits there: every packet would wake the worker, also one
    /// that is not for it.
    pub(crate) fn leave_epoll(&self) {
        self.registration.take();
    }

    /// Lets the send buffer grow by so many bytes, beyond the system's limit where we may.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn widen_send_buffer(&self, by: usize) -> io::Result<()> {
        let size = self.socket.send_buffer_size()? + by;
        self.set_send_buffer(i32::try_from(size).unwrap_or(i32::MAX))
    }

    /// Fixes the size of the send buffer, in bytes as the kernel counts them, beyond the system's limit
    /// where we may.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn set_send_buffer(&self, size: i32) -> io::Result<()> {
        set_buffer(&self.socket, Buffer::Send, size)
    }

    /// Says that everything was delivered: closing ends the connection in an orderly way.
    pub(crate) fn close_cleanly(&self) -> io::Result<()> {
        self.socket.set_linger(None)
    }
}

/// An IPv4 connection of a socket for both families is shown as what it is.
fn canonical(address: SockAddr) -> io::Result<SocketAddr> {
    let address = address.as_socket().ok_or(io::ErrorKind::NotConnected)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
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
/// accepts. Sizes are in bytes as the kernel counts them; `None` leaves a size to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketOptions {
    receive_buffer: Option<i32>,
    /// The largest segment that the peer may send, in bytes with options.
    segment: Option<u32>,
}

impl SocketOptions {
    /// Finds out what may be set here.
    ///
    /// Where the system's limit (net.core.rmem_max) is lower and we may not exceed it, the
    /// receive buffer is left alone: the kernel then bounds it by net.ipv4.tcp_rmem, and a
    /// fixed small one would throttle long paths.
    pub(crate) fn probe() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
            .or_else(|_| Socket::new(Domain::IPV6, Type::STREAM, None))?;
        set_buffer(&socket, Buffer::Receive, RECEIVE_BUFFER)?;
        let granted = socket.recv_buffer_size()? >= RECEIVE_BUFFER as usize;
        let receive_buffer = granted.then_some(RECEIVE_BUFFER);
        Ok(Self { receive_buffer, segment: None })
    }

    /// The same, with a limit for the segments of the peer.
    pub(crate) fn with_segment(self, segment: Option<u32>) -> Self {
        Self { segment, ..self }
    }

    /// Sets everything on a listener, or on a socket that is about to connect.
    pub(crate) fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        // Urgent data keeps its place among the rest instead of being held back.
        socket.set_out_of_band_inline(true)?;
        if let Some(segment) = self.segment {
            // A size that the kernel does not take is its own affair: its own is no larger then.
            let _ = socket.set_tcp_mss(segment);
        }
        if let Some(size) = self.receive_buffer {
            set_buffer(socket, Buffer::Receive, size)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Buffer {
    Receive,
    Send,
}

/// Sets a buffer size, beyond the system's limit where we may.
fn set_buffer(socket: &Socket, which: Buffer, size: i32) -> io::Result<()> {
    let (force, plain) = match which {
        Buffer::Receive => (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        Buffer::Send => (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    };
    // The kernel doubles what it is told (net/core/sock.c, sock_setsockopt).
    let half = size / 2;
    sys::set_int(socket, libc::SOL_SOCKET, force, half)
        .or_else(|_| sys::set_int(socket, libc::SOL_SOCKET, plain, half))
}
