//! One connection through the program, with both of its ends in the test's hands.

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

/// A program with one backend, which is the test itself: each client that connects comes out at
/// [`Link::accept`].
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

    /// Starts a program; the sockets of [`Link::small_pair`] will have small buffers.
    pub fn small(datapath: Datapath) -> Self {
        let listener = listen_small((Ipv4Addr::LOCALHOST, 0).into());
        Self::over(Builder::new(datapath), listener)
    }

    /// Starts a program as `builder` says, with its backend at `backend`.
    pub fn with(builder: Builder, backend: SocketAddr) -> Self {
        Self::over(builder, listen(backend))
    }

    /// Starts a program on its host of a network; the ends of connections are on theirs.
    pub fn across(network: Network, builder: Builder) -> Self {
        Self::across_to(network, builder, listen)
    }

    /// The same; the sockets of [`Link::small_pair`] will have small buffers.
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

    /// The network that it goes across.
    pub fn network(&self) -> &Network {
        &self.network.as_ref().expect("a network").0
    }

    /// A client's stream. Its other end has yet to be accepted.
    pub fn connect(&self) -> TcpStream {
        self.as_client(connect)
    }

    /// Lets a client's host act towards where the program listens.
    pub fn as_client<T: Send>(&self, act: impl FnOnce(SocketAddr) -> T + Send) -> T {
        let address = self.balance.address();
        match &self.network {
            None => act(address),
            Some((network, _)) => network.peer(Peer::Client).enter(|| act(address)),
        }
    }

    /// The backend's end of the next connection that the program made.
    pub fn accept(&self) -> TcpStream {
        accept(&self.listener)
    }

    /// Both ends of a new connection, the client's first, after one byte has gone each way: it
    /// stands, and its datapath has taken it over.
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        self.greet(client)
    }

    /// Bytes that have gone each way on a [`Link::settled_pair`].
    pub const SETTLED: u64 = 300;

    /// Like [`Link::pair`], after as many exchanges as it takes until a datapath that has taken the
    /// connection over does nothing any more that it only does in the beginning.
    pub fn settled_pair(&self) -> (TcpStream, TcpStream) {
        self.pair_after(Self::SETTLED)
    }

    /// Like [`Link::pair`], after so many bytes have gone each way, one at a time.
    pub fn pair_after(&self, exchanges: u64) -> (TcpStream, TcpStream) {
        self.talk(self.connect(), exchanges)
    }

    /// The same as [`Link::settled_pair`] for a client that has connected in its own way.
    pub fn settle(&self, client: TcpStream) -> (TcpStream, TcpStream) {
        self.talk(client, Self::SETTLED)
    }

    /// Like [`Link::pair_after`] for a client that has connected in its own way.
    pub fn talk(&self, client: TcpStream, exchanges: u64) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = self.greet(client);
        for _ in 1..exchanges {
            exchange(&mut client, &mut server);
        }
        (client, server)
    }

    /// Like [`Link::settled_pair`], both ends with small buffers.
    pub fn settled_small_pair(&self) -> (TcpStream, TcpStream) {
        self.settle(self.small_client())
    }

    /// Like [`Link::pair`], both ends with small buffers.
    pub fn small_pair(&self) -> (TcpStream, TcpStream) {
        self.greet(self.small_client())
    }

    fn small_client(&self) -> TcpStream {
        self.connect_after(|_| {})
    }

    /// The next connection that the program made, as [`Link::accept`].
    ///
    /// # Errors
    /// When none comes.
    pub fn try_accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept()?;
        patient(&stream);
        Ok(stream)
    }

    /// A client with small buffers, whose own address is told to `before` before it connects.
    pub fn connect_after(&self, before: impl FnOnce(SocketAddr) + Send) -> TcpStream {
        let client = self.as_client(|address| {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, None).expect("socket");
            // Before the connect: the window scale is settled there.
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

/// Sends one byte each way, the client's first.
pub fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    let mut byte = [0];
    client.write_all(b"?").expect("the client's byte");
    server.read_exact(&mut byte).expect("the client's byte");
    assert_eq!(&byte, b"?");
    server.write_all(b"!").expect("the server's byte");
    client.read_exact(&mut byte).expect("the server's byte");
    assert_eq!(&byte, b"!");
}

/// Sends `up` bytes from client to server and `down` bytes back, both at once, in writes of
/// lengths taken from `writes`, and asserts that they arrive as they were. Nothing is closed.
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
