//! One end of a connection, client or server, and the options of its socket.
//!
//! Invariant: closing a stream resets the connection, unless [`Stream::close_cleanly`] was called
//! before. So after any failure, including a panic and a kill, no peer takes a truncated stream for
//! a complete one.

use std::{
    cell::{Cell, RefCell},
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
    io::epoll::{self, Registered},
    sys,
};

/// Size of the receive buffer, in bytes as the kernel counts them (payload and bookkeeping). Limits
/// the bytes that are queued for a receiver that does not read. The window of a path with a large
/// bandwidth-delay product fits.
const RECEIVE_BUFFER: i32 = 11 << 18;

/// A stream's registration with the runtime's epoll.
pub(crate) type Registration = AsyncFd<Registered<Rc<Socket>>>;

/// An established connection with a client or a server.
///
/// Dropped when the last pending operation on it has completed.
#[derive(Debug)]
pub(crate) struct Stream {
    error: Cell<Option<io::ErrorKind>>,
    registration: RefCell<Option<Rc<Registration>>>,
    // Fields are dropped in this order. The registration ends while the descriptor is open. The
    // held objects, such as the map slots of a datapath, are released when the kernel has forgotten
    // the socket.
    socket: Rc<Socket>,
    held: RefCell<Vec<Rc<dyn fmt::Debug>>>,
}

impl Stream {
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Rc<Self> {
        Rc::new(Self {
            error: Cell::default(),
            registration: RefCell::default(),
            socket: Rc::new(socket.into().into()),
            held: RefCell::default(),
        })
    }

    /// Records the first error of the connection. The kernel reports an error once. Afterwards the
    /// end of the received bytes looks like a FIN.
    pub(crate) fn record_error(&self, kind: io::ErrorKind) {
        if self.error.get().is_none() {
            self.error.set(Some(kind));
        }
    }

    /// The first error of the connection, if there was one. Bytes that arrived before the error can
    /// still be received.
    pub(crate) fn error(&self) -> Option<io::ErrorKind> {
        self.error.get()
    }

    /// Whether the connection has had an error.
    pub(crate) fn is_broken(&self) -> bool {
        self.error.get().is_some()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// When the connection no longer exists.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        canonical(self.socket.peer_addr()?)
    }

    /// The local address.
    ///
    /// # Errors
    /// When the kernel does not report it.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        canonical(self.socket.local_addr()?)
    }

    /// Keeps an object until the socket is closed.
    pub(crate) fn hold(&self, object: Rc<dyn fmt::Debug>) {
        self.held.borrow_mut().push(object);
    }

    /// The stream's registration with the runtime's epoll, for waits that the ring cannot do or
    /// that would cost more there. The first call creates it.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub(crate) fn registration(&self) -> io::Result<Rc<Registration>> {
        let mut registration = self.registration.borrow_mut();
        if let Some(existing) = &*registration {
            return Ok(Rc::clone(existing));
        }
        let interest = Interest::READABLE | Interest::PRIORITY | Interest::WRITABLE;
        let created = Rc::new(epoll::register(Rc::clone(&self.socket), interest)?);
        Ok(Rc::clone(registration.insert(created)))
    }

    /// Removes the registration with epoll. No task may wait on it. A registered socket would wake
    /// the worker for every packet, including packets that are not for the worker.
    pub(crate) fn leave_epoll(&self) {
        self.registration.take();
    }

    /// Enlarges the send buffer by `by` bytes, beyond the system's limit if the process may.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn enlarge_send_buffer(&self, by: usize) -> io::Result<()> {
        let size = self.socket.send_buffer_size()? + by;
        self.set_send_buffer(i32::try_from(size).unwrap_or(i32::MAX))
    }

    /// Fixes the size of the send buffer, in bytes as the kernel counts them, beyond the system's
    /// limit if the process may.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn set_send_buffer(&self, size: i32) -> io::Result<()> {
        set_buffer(&self.socket, BufferKind::Send, size)
    }

    /// Declares that every byte was delivered: closing then ends the connection with FIN.
    pub(crate) fn close_cleanly(&self) -> io::Result<()> {
        self.socket.set_linger(None)
    }
}

/// Converts an IPv4-mapped IPv6 address, which a dual-stack socket reports, to IPv4.
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

/// The options of this process's sockets. A listener passes its options on to the sockets that it
/// accepts. Sizes are in bytes as the kernel counts them. `None` leaves a size to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketOptions {
    receive_buffer: Option<i32>,
    /// The maximum segment size to announce to the peer, in bytes with TCP options.
    mss: Option<u32>,
}

impl SocketOptions {
    /// Finds the options that this process may set.
    ///
    /// If net.core.rmem_max is lower than [`RECEIVE_BUFFER`] and this process may not exceed it,
    /// the receive buffer stays as it is: the kernel then limits it by net.ipv4.tcp_rmem, and a
    /// small fixed buffer would throttle long paths.
    ///
    /// # Errors
    /// When no socket can be created.
    pub(crate) fn probe() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
            .or_else(|_| Socket::new(Domain::IPV6, Type::STREAM, None))?;
        set_buffer(&socket, BufferKind::Receive, RECEIVE_BUFFER)?;
        let granted = socket.recv_buffer_size()? >= RECEIVE_BUFFER as usize;
        let receive_buffer = granted.then_some(RECEIVE_BUFFER);
        Ok(Self { receive_buffer, mss: None })
    }

    /// The same options with another maximum segment size.
    pub(crate) fn with_mss(self, mss: Option<u32>) -> Self {
        Self { mss, ..self }
    }

    /// Sets the options on a listener, or on a socket before its connect(2).
    pub(crate) fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        // Urgent data keeps its place in the stream.
        socket.set_out_of_band_inline(true)?;
        if let Some(mss) = self.mss {
            // Where the kernel rejects the size it uses its own, which is no larger.
            let _ = socket.set_tcp_mss(mss);
        }
        if let Some(size) = self.receive_buffer {
            set_buffer(socket, BufferKind::Receive, size)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum BufferKind {
    Receive,
    Send,
}

/// Sets the size of a buffer, beyond the system's limit if the process may.
fn set_buffer(socket: &Socket, kind: BufferKind, size: i32) -> io::Result<()> {
    let (force, plain) = match kind {
        BufferKind::Receive => (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        BufferKind::Send => (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    };
    // The kernel doubles the value (net/core/sock.c, sock_setsockopt).
    let half = size / 2;
    sys::set_int(socket, libc::SOL_SOCKET, force, half)
        .or_else(|_| sys::set_int(socket, libc::SOL_SOCKET, plain, half))
}
