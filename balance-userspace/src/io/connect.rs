//! Connecting to a server: to the address of a channel, or to the first of several that answers.
//!
//! Invariant: whatever the number of addresses, a channel costs a client at most the limit of `-t`;
//! a connect that is given up leaves nothing behind; a connection that the server has accepted is
//! never taken for one that could not be made.

mod race;

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
        loops::Loops,
        ring,
        stream::{SocketOptions, Stream},
    },
    sys,
};

/// How servers are connected to.
pub(crate) struct Outgoing {
    options: SocketOptions,
    /// Our own address on those connections (`-B`); the other family is not bound.
    source: Option<IpAddr>,
    pub(crate) loops: Arc<Loops>,
    /// Permits for attempts beyond one for each client.
    spare: Semaphore,
}

/// Attempts of a process, beyond one for each client, that are made at the same time because a
/// channel has several addresses. Each has a descriptor.
const MOST_SPARE: usize = 256;

/// How many of these attempts a process may make that can open `descriptors` descriptors: this many
/// descriptors are to be reserved for them.
pub(crate) fn spare_attempts(descriptors: usize) -> usize {
    (descriptors / 64).min(MOST_SPARE)
}

impl Outgoing {
    /// Connects with these options, from that address if there is one, with so many attempts at a
    /// time beyond one for each client ([`spare_attempts`]).
    pub(crate) fn new(
        options: SocketOptions,
        source: Option<IpAddr>,
        loops: Arc<Loops>,
        spare: usize,
    ) -> Self {
        Self { options, source, loops, spare: Semaphore::new(spare) }
    }
}

/// Why a channel could not be connected to: what one of its addresses said.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct Failed {
    pub(crate) address: SocketAddr,
    pub(crate) source: io::Error,
}

impl Failed {
    fn timed_out(address: SocketAddr) -> Self {
        Self { address, source: io::ErrorKind::TimedOut.into() }
    }

    /// Whether we, and not the server, are to blame.
    pub(crate) fn is_shortage(&self) -> bool {
        let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        self.source.raw_os_error().is_some_and(|number| ours.contains(&number))
    }

    /// Whether there is no port left for another connection from our address to the server's. That may
    /// be so for good, as where we have no address that leads there.
    pub(crate) fn is_portless(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EADDRNOTAVAIL)
    }
}

/// Connects to the first address that answers, within the limit. With `segment` servers are told to
/// send no larger segments, in bytes.
///
/// # Errors
/// What one of the addresses said; `TimedOut` if the limit was reached.
pub(crate) async fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
    segment: Option<u32>,
    how: &Outgoing,
) -> Result<(Rc<Stream>, SocketAddr), Failed> {
    let end = Instant::now() + limit;
    let &[address] = addresses else {
        return race::connect(addresses, end, segment, how).await;
    };
    let failed = |source| Failed { address, source };
    let stream = begin(address, segment, how).map_err(failed)?;
    match timeout_at(end, finish(&stream)).await {
        Ok(result) => result.map(|()| (stream, address)).map_err(failed),
        Err(_) => {
            ring::cancel(&stream).await;
            Err(Failed::timed_out(address))
        }
    }
}

/// Gives a socket its own address, and no port: that is chosen when it is known where to, so that one port serves
/// for each server, and a host without a free one can still be asked whether the address is its own.
pub(crate) fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    sys::set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Begins to connect.
fn begin(address: SocketAddr, segment: Option<u32>, how: &Outgoing) -> io::Result<Rc<Stream>> {
    how.loops.before(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    how.options.with_segment(segment).apply(&socket)?;
    if let Some(source) = how.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        bind_source(&socket, source)?;
    }
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
        _ => {}
    }
    let stream = Stream::new(socket);
    stream.keep(how.loops.after(stream.own()?, address)?);
    Ok(stream)
}

/// Waits until the server has accepted or refused.
///
/// The ring's own connect operation would hold the socket, and so its port, through all of the
/// kernel's retries; a wait for an event can be given up, with [`ring::cancel`].
async fn finish(stream: &Rc<Stream>) -> io::Result<()> {
    let events = ring::poll(stream, libc::POLLOUT).await?;
    if events & (libc::POLLERR | libc::POLLHUP) == 0 {
        return Ok(());
    }
    // Reading SO_ERROR clears the error, and a later read would report a clean end. So TCP's own count
    // is asked first: it counts our SYN as acknowledged only when the server has accepted. What the server sent before it broke the connection is still to be read.
    if sys::send_state(&**stream)?.acked > 0 {
        stream.mark_broken(io::ErrorKind::ConnectionReset);
        return Ok(());
    }
    Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()))
}
