//! Connects to a server: to the one address of a channel, or to the first of several that answers.
//!
//! Invariants: a channel costs a client at most the time limit (`-t`), however many addresses it
//! has. An abandoned connect leaves no socket and no pending operation behind. A connection that
//! the server has accepted is never reported as failed.

mod happy_eyeballs;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    io::{
        loops::LoopDetector,
        ring,
        stream::{SocketOptions, Stream},
    },
    sys,
};

/// Makes the connections to servers.
pub(crate) struct Connector {
    options: SocketOptions,
    /// The local address of the connections (`-B`). Connections of the other address family are not
    /// bound.
    source: Option<IpAddr>,
    pub(crate) loops: Arc<LoopDetector>,
    /// Permits for attempts beyond the first of each client.
    extra: Arc<Semaphore>,
}

/// Attempts beyond the first of each client that a process makes at the same time, because channels
/// have several addresses. Each attempt has a descriptor.
const MAX_EXTRA: usize = 256;

/// The number of extra attempts at the same time in a process that can open `descriptors`
/// descriptors. The caller reserves a descriptor for each.
pub(crate) fn extra_attempts(descriptors: usize) -> usize {
    (descriptors / 64).min(MAX_EXTRA)
}

/// Why a channel could not be connected to: the error of one of its addresses.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct ConnectError {
    pub(crate) address: SocketAddr,
    pub(crate) source: io::Error,
}

impl ConnectError {
    fn timed_out(address: SocketAddr) -> Self {
        Self { address, source: io::ErrorKind::TimedOut.into() }
    }

    /// Whether this host lacks a resource. The server is not at fault.
    pub(crate) fn is_shortage(&self) -> bool {
        let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        self.source.raw_os_error().is_some_and(|number| ours.contains(&number))
    }

    /// Whether no local port is left for a connection to the server's address. The state can be
    /// permanent, for example if no address of this host can reach the server.
    pub(crate) fn is_port_exhaustion(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EADDRNOTAVAIL)
    }
}

impl Connector {
    /// A connector whose sockets have these options and the local address `source`, if there is
    /// one. An attempt beyond the first of a client takes a permit of `extra`, which has
    /// [`extra_attempts`] permits for all connectors of the process.
    pub(crate) fn new(
        options: SocketOptions,
        source: Option<IpAddr>,
        loops: Arc<LoopDetector>,
        extra: Arc<Semaphore>,
    ) -> Self {
        Self { options, source, loops, extra }
    }

    /// Connects to the first address that answers within `limit`. Announces the maximum segment
    /// size `mss`, in bytes, if it is given.
    ///
    /// # Errors
    /// The error of one of the addresses; `TimedOut` if the limit was reached.
    pub(crate) async fn connect(
        &self,
        addresses: &[SocketAddr],
        limit: Duration,
        mss: Option<u32>,
    ) -> Result<(Rc<Stream>, SocketAddr), ConnectError> {
        let end = Instant::now() + limit;
        let &[address] = addresses else {
            return happy_eyeballs::connect(self, addresses, end, mss).await;
        };
        let failed = |source| ConnectError { address, source };
        let stream = self.start(address, mss).map_err(failed)?;
        match timeout_at(end, finish(&stream)).await {
            Ok(result) => result.map(|()| (stream, address)).map_err(failed),
            Err(_) => {
                ring::cancel(&stream).await;
                Err(ConnectError::timed_out(address))
            }
        }
    }

    /// Starts to connect.
    fn start(&self, address: SocketAddr, mss: Option<u32>) -> io::Result<Rc<Stream>> {
        self.loops.check(address)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        self.options.with_mss(mss).apply(&socket)?;
        if let Some(source) = self.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
            bind_source(&socket, source)?;
        }
        match socket.connect(&address.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let stream = Stream::new(socket);
        stream.hold(Rc::new(self.loops.register(stream.local()?, address)?));
        Ok(stream)
    }
}

/// Binds a socket to a local address without a port. The kernel chooses the port on connect(2),
/// when the destination is known. So connections to different servers can share a local port, and
/// `-B` can be checked on a host without a free port.
pub(crate) fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    sys::set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Waits until the server has accepted or refused the connection.
///
/// A connect operation of the ring would hold the socket, and so its port, through all of the
/// kernel's retries. A poll can be cancelled with [`ring::cancel`].
async fn finish(stream: &Rc<Stream>) -> io::Result<()> {
    let events = ring::poll(stream, libc::POLLOUT).await?;
    if events & (libc::POLLERR | libc::POLLHUP) == 0 {
        return Ok(());
    }
    // TCP counts our SYN as acknowledged only after the server has accepted. Check this count
    // first: reading SO_ERROR would clear the error, and a later read would report a clean end. The
    // bytes that the server sent before it failed are still to be read.
    if sys::send_state(&**stream)?.acked > 0 {
        stream.record_error(io::ErrorKind::ConnectionReset);
        return Ok(());
    }
    Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()))
}
