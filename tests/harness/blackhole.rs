//! A server address where a connect hangs: it is neither accepted nor refused.
//!
//! Invariant: the accept queue stays full until the [`Blackhole`] is dropped.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::net::bind;

/// A listener with a full accept queue: the kernel drops every further SYN.
#[derive(Debug)]
pub struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _fillers: Vec<Socket>,
}

impl Blackhole {
    /// Opens a listener at 127.0.0.1 and fills its queue until a connect times out.
    pub fn open() -> Self {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into());
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("getsockname");
        let mut fillers = Vec::new();
        for _ in 0..16 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            let connected = filler.connect_timeout(&address, Duration::from_millis(300));
            fillers.push(filler);
            if connected.is_err() {
                return Self {
                    address: address.as_socket().expect("an IP address"),
                    _listener: listener,
                    _fillers: fillers,
                };
            }
        }
        panic!("16 connects to a listener with a backlog of 0 went through");
    }

    /// The address where connects hang.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
