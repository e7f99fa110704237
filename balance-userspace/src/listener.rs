//! Listening sockets: one for each worker on the same address.
//!
//! Invariant: the first is bound without SO_REUSEPORT, so that an address that anybody else
//! listens on, another balance included, is an error and never silently shared.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Socket, Type};

use crate::{error::StartError, stream::SocketOptions};

/// Binds `count` listeners; without an address on all of both families, or of IPv4 alone
/// where the system has no IPv6.
///
/// # Errors
/// [`StartError::Listen`], naming the address.
pub(crate) fn bind(
    address: Option<IpAddr>,
    port: u16,
    count: usize,
    options: SocketOptions,
) -> Result<Vec<Socket>, StartError> {
    let ip = address.unwrap_or_else(|| {
        if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    });
    let address = SocketAddr::new(ip, port);
    let refused = |source| StartError::Listen { address: address.to_string(), source };
    let mut listeners = Vec::with_capacity(count);
    for i in 0..count {
        listeners.push(bind_one(address, i == 0, options).map_err(refused)?);
    }
    // Listen only when all are bound: clients are spread over the listeners there are.
    for listener in &listeners {
        listener.listen(BACKLOG).map_err(refused)?;
    }
    Ok(listeners)
}

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = i32::MAX;

fn bind_one(address: SocketAddr, first: bool, options: SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Also for a literal such as ::ffff:192.0.2.1, which is an IPv4 address.
        socket.set_only_v6(false)?;
    }
    options.apply(&socket)?;
    if first {
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
    } else {
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
    }
    Ok(socket)
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
        let ours = bind(ip, port, 3, options).unwrap();
        assert_eq!(ours.len(), 3);
        let e = bind(ip, port, 1, options).unwrap_err();
        assert_eq!(e.exit_code(), 71);
        assert!(e.to_string().contains(&port.to_string()), "{e}");
    }
}
