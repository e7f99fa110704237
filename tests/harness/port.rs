//! Ports reserved for one test.
//!
//! Invariant: no other socket gets the port while the [`ReservedPort`] lives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port bound without listening. Connects to it are refused until a program that sets
/// SO_REUSEADDR listens on it as well.
///
/// The kernel gives a bound port neither to another reservation nor to an outgoing connection.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _socket: Socket,
}

impl ReservedPort {
    /// Reserves a port of 127.0.0.1.
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// Reserves a port of the given address; of both IP versions for `::`.
    pub fn at(ip: IpAddr) -> Self {
        Self::bind(SocketAddr::new(ip, 0)).expect("a free port")
    }

    /// Reserves a given port, for tests that need one port at two addresses.
    ///
    /// # Errors
    /// When the port is in use.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let address = socket.local_addr()?.as_socket().expect("an IP address");
        Ok(Self { address, _socket: socket })
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Default for ReservedPort {
    fn default() -> Self {
        Self::new()
    }
}
