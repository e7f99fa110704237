//! A connection through the program whose two ends belong to the test.
//!
//! Invariant: each pair consists of the two ends of one connection.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    thread,
};

use socket2::{Domain, Socket, Type};

use crate::{
    Balance, Builder, Datapath, Network, Pattern, Peer, ReservedPort, TIMEOUT, accept, connect,
    listen, listen_small,
    net::{patient, small_buffers},
    receive_exactly, send,
};

/// A program whose only backend is the test: [`Link::accept`] returns the server end of each
/// client's connection.
#[derive(Debug)]
pub struct Link {
    /// The program.
    pub balance: Balance,
    listener: TcpListener,
    network: Option<(Network, ReservedPort)>,
}

impl Link {
    /// Starts a program on the given datapath.
    pub fn new(datapath: Datapath) -> Self {
        Self::with(Builder::new(datapath), (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts a program; the sockets of [`Link::small_pair`] have small buffers.
    pub fn small(datapath: Datapath) -> Self {
        let listener = listen_small((Ipv4Addr::LOCALHOST, 0).into());
        Self::over(Builder::new(datapath), listener)
    }

    /// Starts a program from `builder`, with its backend at the address `backend`.
    pub fn with(builder: Builder, backend: SocketAddr) -> Self {
        Self::over(builder, listen(backend))
    }

    /// Starts a program on the balancer's host of a network; clients and servers are on their own
    /// hosts.
    pub fn across(network: Network, builder: Builder) -> Self {
        Self::across_to(network, builder, listen)
    }

    /// Starts a program in a network; the sockets of [`Link::small_pair`] have small buffers.
    pub fn small_across(network: Network, builder: Builder) -> Self {
        Self::across_to(network, builder, listen_small)
    }

    fn over(builder: Builder, listener: TcpListener) -> Self {
        let backend = listener.local_addr().expect("getsockname");
        Self { balance: builder.channel(backend).start(), listener, network: None }
    }

    fn across_to(
        network: Network,
        builder: Builder,
        listen: impl FnOnce(SocketAddr) -> TcpListener + Send,
    ) -> Self {
        let listener = network.peer(Peer::Server).enter(|| listen(network.backend()));
        let backend = listener.local_addr().expect("getsockname");
        let (balance, port) = builder.channel(backend).start_within(&network);
        Self { balance, listener, network: Some((network, port)) }
    }

    /// The network of the link.
    pub fn network(&self) -> &Network {
        &self.network.as_ref().expect("a network").0
    }

    /// Connects a client. The server end is yet to be accepted.
    pub fn connect(&self) -> TcpStream {
        self.as_client(connect)
    }

    /// Runs `act` on the client's host, with the address that the program listens on.
    pub fn as_client<T: Send>(&self, act: impl FnOnce(SocketAddr) -> T + Send) -> T {
        let address = self.balance.address();
        match &self.network {
            None => act(address),
            Some((network, _)) => network.peer(Peer::Client).enter(|| act(address)),
        }
    }

    /// Accepts the server end of the next connection.
    pub fn accept(&self) -> TcpStream {
        accept(&self.listener)
    }

    /// Both ends of a new connection, client first, after one byte each way. The connection is
    /// established and its datapath has taken over.
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        self.greet(client)
    }

    /// Bytes each way that precede a [`Link::settled_pair`].
    pub const SETTLED: u64 = 300;

    /// Like [`Link::pair`], after enough exchanges that the datapath has finished its initial work.
    pub fn settled_pair(&self) -> (TcpStream, TcpStream) {
        self.pair_after(Self::SETTLED)
    }

    /// Like [`Link::pair`], after `exchanges` bytes each way, one at a time.
    pub fn pair_after(&self, exchanges: u64) -> (TcpStream, TcpStream) {
        self.pair_with(self.connect(), exchanges)
    }

    /// Like [`Link::settled_pair`], for a client that is already connected.
    pub fn settle(&self, client: TcpStream) -> (TcpStream, TcpStream) {
        self.pair_with(client, Self::SETTLED)
    }

    /// Like [`Link::pair_after`], for a client that is already connected.
    pub fn pair_with(&self, client: TcpStream, exchanges: u64) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = self.greet(client);
        for _ in 1..exchanges {
            exchange(&mut client, &mut server);
        }
        (client, server)
    }

    /// Like [`Link::settled_pair`], with small buffers at both ends.
    pub fn settled_small_pair(&self) -> (TcpStream, TcpStream) {
        self.settle(self.small_client())
    }

    /// Like [`Link::pair`], with small buffers at both ends.
    pub fn small_pair(&self) -> (TcpStream, TcpStream) {
        self.greet(self.small_client())
    }

    fn small_client(&self) -> TcpStream {
        self.connect_after(|_| {})
    }

    /// Accepts the server end of the next connection.
    ///
    /// # Errors
    /// When no connection arrives within the timeout.
    pub fn try_accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept()?;
        patient(&stream);
        Ok(stream)
    }

    /// Connects a client with small buffers; calls `before` with the client's address before the
    /// connect.
    pub fn connect_after(&self, before: impl FnOnce(SocketAddr) + Send) -> TcpStream {
        let client = self.as_client(|address| {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, None).expect("socket");
            // Set before the connect, which negotiates the window scale.
            small_buffers(&socket);
            let own =
                self.network.as_ref().map_or(address.ip(), |(network, _)| network.client_ip());
            socket.bind(&SocketAddr::new(own, 0).into()).expect("bind");
            let own = socket.local_addr().expect("getsockname").as_socket();
            before(own.expect("an IP address"));
            socket.connect_timeout(&address.into(), TIMEOUT).expect("connecting to the program");
            TcpStream::from(socket)
        });
        patient(&client);
        client
    }

    fn greet(&self, mut client: TcpStream) -> (TcpStream, TcpStream) {
        let mut server = self.accept();
        exchange(&mut client, &mut server);
        (client, server)
    }
}

/// Exchanges one byte each way, the client's first.
pub fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    let mut byte = [0];
    client.write_all(b"?").expect("the client's byte");
    server.read_exact(&mut byte).expect("the client's byte");
    assert_eq!(&byte, b"?");
    server.write_all(b"!").expect("the server's byte");
    client.read_exact(&mut byte).expect("the server's byte");
    assert_eq!(&byte, b"!");
}

/// Sends `up` bytes from client to server and `down` bytes back at the same time, each write of a
/// length drawn from `writes`, and asserts that the bytes arrive unchanged. Closes nothing.
pub fn both_ways(
    client: &TcpStream,
    server: &TcpStream,
    (up, down): (u64, u64),
    writes: Range<usize>,
) {
    let (up_seed, down_seed) = (up ^ 0xc11e, down ^ 0x5e7e);
    thread::scope(|scope| {
        let transfers = [
            ("client to server", client, server, up_seed, up),
            ("server to client", server, client, down_seed, down),
        ];
        let running = transfers.map(|(name, from, to, seed, len)| {
            let writes = writes.clone();
            let sent = scope.spawn(move || {
                send(from, Pattern::new(seed, len), writes, |_| {})
                    .unwrap_or_else(|error| panic!("sending {len} bytes, {name}: {error}"))
            });
            let received = scope.spawn(move || {
                receive_exactly(to, len)
                    .unwrap_or_else(|error| panic!("receiving {len} bytes, {name}: {error}"))
            });
            (name, sent, received)
        });
        for (name, sent, received) in running {
            let sent = sent.join().expect("the sender");
            let received = received.join().expect("the receiver");
            assert_eq!(received, sent, "{name}");
        }
    });
}
