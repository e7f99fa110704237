//! Connecting to a backend: all addresses of the channel, within one time limit.
//!
//! Invariant: whatever the number of addresses, a channel costs a client at most the limit;
//! a connect that is given up leaves nothing behind.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, timeout_at};

use crate::{
    loops::Loops,
    ready, ring,
    stream::{SocketOptions, Stream},
    sys,
};

/// How backends are connected to.
pub(crate) struct Outgoing {
    pub(crate) options: SocketOptions,
    /// Our own address on those connections (`-B`); the other family is not bound.
    pub(crate) source: Option<IpAddr>,
    pub(crate) loops: Arc<Loops>,
}

/// Connects to the first address that answers; each gets an equal share of what is left of
/// the limit, which is the longest that this takes. With `segment` backends are told to send no larger segments, in bytes.
///
/// # Errors
/// The last address's error; `TimedOut` if the limit was reached.
pub(crate) async fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
    segment: Option<u32>,
    how: &Outgoing,
) -> io::Result<(Rc<Stream>, SocketAddr)> {
    let end = Instant::now() + limit;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the channel has no address");
    for (i, &address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        match connect_one(address, segment, Instant::now() + share, how).await {
            Ok(stream) => return Ok((stream, address)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Gives a socket its own address, and no port: that is chosen when it is known where to, so that one port serves
/// for each server, and a host without a free one can still be asked whether the address is its own.
pub(crate) fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    sys::set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

async fn connect_one(
    address: SocketAddr,
    segment: Option<u32>,
    end: Instant,
    how: &Outgoing,
) -> io::Result<Rc<Stream>> {
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
    // The ring's own connect operation would hold the socket, and so its port, through all of
    // the kernel's retries; a wait for writability can be given up.
    let result = timeout_at(end, ready::writable(&stream)).await;
    if result.is_err() {
        ring::cancel(&stream).await;
        return Err(io::ErrorKind::TimedOut.into());
    }
    match stream.take_error()? {
        Some(e) => Err(e),
        None => Ok(stream),
    }
}
