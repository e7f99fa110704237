//! Listening sockets: one for each worker on the same address.
//!
//! Invariant: the first is bound without SO_REUSEPORT, so that an address that anybody else
//! listens on, another balance included, is an error and never silently shared. Who binds need not
//! be who listens: a supervisor keeps what it has bound, so that nobody is refused while the process
//! that listens is exchanged.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{error::StartError, io::stream::SocketOptions};

/// Binds `count` listeners; without an address on all of both families, or of IPv4 alone
/// where the system has no IPv6.
///
/// # Errors
/// [`StartError::Listen`], naming the address.
pub(crate) fn bind(
    address: Option<IpAddr>,
    port: u16,
    count: usize,
) -> Result<Vec<Socket>, StartError> {
    let address = wanted(address, port);
    let refused = |source| StartError::Listen { address: address.to_string(), source };
    let mut listeners = Vec::with_capacity(count);
    for i in 0..count {
        listeners.push(patiently(|| bind_one(address, i == 0)).map_err(refused)?);
    }
    Ok(listeners)
}

/// How long an address may be in use by somebody who is on his way out: what is left of a program that
/// was killed had its listeners for 20 µs a connection (measured: 10 ms with 10, 80 with 4,000, 185
/// with 9,000), so that this is enough for 100,000.
const LEAVING: Duration = Duration::from_secs(2);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Does what needs an address, again for a while when that is in use: the kernel lets go of what waited
/// in an io_uring only after its process has (io_uring/io_uring.c, io_ring_exit_work).
fn patiently<T>(act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match act() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < LEAVING => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Begins to listen, or goes on with other options where somebody listened already. All must be
/// bound by now: clients are spread over the listeners there are.
///
/// # Errors
/// [`StartError::Listen`], naming the address.
pub(crate) fn listen(listeners: &[Socket], options: SocketOptions) -> Result<(), StartError> {
    for listener in listeners {
        let begin = || {
            options.apply(listener)?;
            listener.listen(BACKLOG)
        };
        patiently(begin).map_err(|source| {
            let address = local(listener).map_or_else(|| "?".to_owned(), |a| a.to_string());
            StartError::Listen { address, source }
        })?;
    }
    Ok(())
}

/// Where a listener is.
pub(crate) fn local(listener: &Socket) -> Option<SocketAddr> {
    listener.local_addr().ok()?.as_socket()
}

/// Where a listener without an address is.
pub(crate) fn wanted(address: Option<IpAddr>, port: u16) -> SocketAddr {
    let ip = address.unwrap_or_else(|| {
        if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    });
    SocketAddr::new(ip, port)
}

/// Gives each of so many workers its listeners: one each, if there are as many.
///
/// # Errors
/// When there are no descriptors left.
pub(crate) fn share(listeners: Vec<Socket>, workers: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut shares: Vec<Vec<Socket>> = Vec::new();
    shares.resize_with(workers, Vec::new);
    // Each worker beyond the listeners accepts beside another one.
    for i in listeners.len()..workers {
        shares[i].push(listeners[i % listeners.len()].try_clone()?);
    }
    for (i, listener) in listeners.into_iter().enumerate() {
        shares[i % workers].push(listener);
    }
    Ok(shares)
}

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = i32::MAX;

fn bind_one(address: SocketAddr, first: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Also for a literal such as ::ffff:192.0.2.1, which is an IPv4 address.
        socket.set_only_v6(false)?;
    }
    if first {
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
    } else {
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
    }
    Ok(socket)
}

/// Whether the host has any address of IPv6. Without one a listener on `[::]` hears IPv4 alone: where
/// IPv6 is only disabled (net.ipv6.conf.all.disable_ipv6) the kernel binds it all the same.
pub(crate) fn has_ipv6_address() -> bool {
    let loopback = || bind_one((Ipv6Addr::LOCALHOST, 0).into(), true).is_ok();
    let listed = std::fs::read("/proc/self/net/if_inet6");
    listed.is_ok_and(|addresses| !addresses.is_empty()) || loopback()
}

fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_listeners_share_a_port_and_a_stranger_is_refused() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let options = SocketOptions::default();
        let ip = Some(Ipv4Addr::LOCALHOST.into());
        let ours = bind(ip, port, 3).unwrap();
        listen(&ours, options).unwrap();
        assert_eq!(ours.len(), 3);
        let e = bind(ip, port, 1).unwrap_err();
        assert_eq!(e.exit_code(), 71);
        assert!(e.to_string().contains(&port.to_string()), "{e}");
    }

    #[test]
    fn an_address_in_use_is_waited_for_and_nothing_else_is() {
        use std::cell::Cell;
        let fail = |kind: io::ErrorKind| {
            let tries = Cell::new(0);
            let result = patiently(|| match tries.replace(tries.get() + 1) {
                0..5 => Err(kind.into()),
                _ => Ok(()),
            });
            (result.is_ok(), tries.get())
        };
        assert_eq!(fail(io::ErrorKind::AddrInUse), (true, 6));
        assert_eq!(fail(io::ErrorKind::PermissionDenied), (false, 1));
    }

    #[test]
    fn every_listener_has_a_worker_and_every_worker_a_listener() {
        for (listeners, workers) in [(1, 1), (1, 3), (3, 1), (2, 2), (3, 2), (2, 3)] {
            let ip = Some(Ipv4Addr::LOCALHOST.into());
            let bound: Vec<_> = (0..listeners).flat_map(|_| bind(ip, 0, 1).unwrap()).collect();
            let mut ports: Vec<_> = bound.iter().map(|l| local(l).unwrap().port()).collect();
            let shares = share(bound, workers).unwrap();
            assert_eq!(shares.len(), workers);
            assert!(shares.iter().all(|share| !share.is_empty()));
            let shared = shares.iter().flatten();
            let mut found: Vec<_> = shared.map(|l| local(l).unwrap().port()).collect();
            found.sort_unstable();
            found.dedup();
            ports.sort_unstable();
            assert_eq!(found, ports, "{listeners} {workers}");
            assert_eq!(shares.iter().flatten().count(), listeners.max(workers));
        }
    }
}
