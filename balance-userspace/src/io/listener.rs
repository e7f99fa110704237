//! Listening sockets: one for each worker, all on the same address.
//!
//! Invariants: the first socket is bound without SO_REUSEPORT. So an address that another program,
//! or another balance, listens on is an error, and never shared by accident. The process that binds
//! need not be the process that listens: a supervisor keeps its bound sockets open, so that clients
//! can connect while it replaces the process that listens.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{error::StartError, io::stream::SocketOptions};

/// Binds `count` listeners. Without an address they are bound to [`bind_address`].
///
/// # Errors
/// [`StartError::Listen`] with the address.
pub(crate) fn bind(
    address: Option<IpAddr>,
    port: u16,
    count: usize,
) -> Result<Vec<Socket>, StartError> {
    let address = bind_address(address, port);
    let failed = |source| StartError::Listen { address: address.to_string(), source };
    let mut listeners = Vec::with_capacity(count);
    for i in 0..count {
        listeners.push(retry_in_use(|| bind_one(address, i == 0)).map_err(failed)?);
    }
    Ok(listeners)
}

/// The time for which an address may stay in use by a process that is exiting. A killed program
/// keeps its listeners for 20 µs for each of its connections (measured: 10 ms with 10 connections,
/// 80 ms with 4,000, 185 ms with 9,000), so this is enough for 100,000.
const EXIT_TIME: Duration = Duration::from_secs(2);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `act` again while the address is in use, for at most [`EXIT_TIME`]. The kernel releases
/// the sockets of pending io_uring operations only after their process has exited
/// (io_uring/io_uring.c, io_ring_exit_work).
fn retry_in_use<T>(act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match act() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < EXIT_TIME => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Starts to listen, or sets new options on sockets that listen already. All listeners must be
/// bound before: the kernel spreads clients over the sockets that listen.
///
/// # Errors
/// [`StartError::Listen`] with the address.
pub(crate) fn listen(listeners: &[Socket], options: SocketOptions) -> Result<(), StartError> {
    for listener in listeners {
        let listen = || {
            options.apply(listener)?;
            listener.listen(BACKLOG)
        };
        retry_in_use(listen).map_err(|source| {
            let address = local_address(listener).map_or_else(|| "?".to_owned(), |a| a.to_string());
            StartError::Listen { address, source }
        })?;
    }
    Ok(())
}

/// The address of a listener; `None` if it is not a TCP socket.
pub(crate) fn local_address(listener: &Socket) -> Option<SocketAddr> {
    listener.local_addr().ok()?.as_socket()
}

/// The address to bind. Without an IP address it is [::], which also accepts IPv4, or 0.0.0.0 on a
/// system without IPv6.
pub(crate) fn bind_address(address: Option<IpAddr>, port: u16) -> SocketAddr {
    let ip = address.unwrap_or_else(|| {
        if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    });
    SocketAddr::new(ip, port)
}

/// Distributes the listeners over `workers` workers. Each worker has at least one listener, and
/// each listener at least one worker.
///
/// # Errors
/// When no descriptor is left.
pub(crate) fn distribute(listeners: Vec<Socket>, workers: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut shares: Vec<Vec<Socket>> = Vec::new();
    shares.resize_with(workers, Vec::new);
    // A worker without a listener of its own accepts on the socket of another worker.
    for i in listeners.len()..workers {
        shares[i].push(listeners[i % listeners.len()].try_clone()?);
    }
    for (i, listener) in listeners.into_iter().enumerate() {
        shares[i % workers].push(listener);
    }
    Ok(shares)
}

/// The length of the accept queue. The kernel lowers it to net.core.somaxconn.
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

/// Whether the host has an IPv6 address. Without one a listener on [::] accepts only IPv4 clients:
/// the kernel binds [::] even if IPv6 is disabled (net.ipv6.conf.all.disable_ipv6).
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
    fn listeners_share_a_port_and_another_program_is_refused() {
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
    fn only_an_address_in_use_is_retried() {
        use std::cell::Cell;
        let fail = |kind: io::ErrorKind| {
            let tries = Cell::new(0);
            let result = retry_in_use(|| match tries.replace(tries.get() + 1) {
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
            let mut ports: Vec<_> =
                bound.iter().map(|l| local_address(l).unwrap().port()).collect();
            let shares = distribute(bound, workers).unwrap();
            assert_eq!(shares.len(), workers);
            assert!(shares.iter().all(|share| !share.is_empty()));
            let shared = shares.iter().flatten();
            let mut found: Vec<_> = shared.map(|l| local_address(l).unwrap().port()).collect();
            found.sort_unstable();
            found.dedup();
            ports.sort_unstable();
            assert_eq!(found, ports, "{listeners} {workers}");
            assert_eq!(shares.iter().flatten().count(), listeners.max(workers));
        }
    }
}
