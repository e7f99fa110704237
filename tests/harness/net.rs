//! The sockets of the tests.
//!
//! Invariant: every socket has timeouts, so no call waits forever.

use std::{
    io::{self, ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::TIMEOUT;

/// How the peer ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a FIN: all bytes have arrived.
    Clean,
    /// With a RST: the peer aborted the connection.
    Reset,
}

/// Buffer size for tests that measure memory; the kernel doubles it for its bookkeeping. It is two
/// loopback segments: with less the connection cannot be spliced.
const SMALL: usize = 128 << 10;

/// Gives a socket small fixed buffers. Sockets accepted by a listener inherit them.
pub fn small_buffers<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    socket.set_send_buffer_size(SMALL).expect("SO_SNDBUF");
    socket.set_recv_buffer_size(SMALL).expect("SO_RCVBUF");
}

/// Connects, with [`TIMEOUT`] also for all later reads and writes.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
}

/// Connects like [`connect`], where the connection may be refused or reset.
fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    patient(&stream);
    Ok(stream)
}

/// A listener whose `accept` times out after [`TIMEOUT`]; port 0 lets the kernel choose.
pub fn listen(address: SocketAddr) -> TcpListener {
    let listener = bind(address);
    listener.listen(1024).expect("listen");
    listener.into()
}

/// Like [`listen`]; accepted connections have [`small_buffers`].
pub fn listen_small(address: SocketAddr) -> TcpListener {
    let listener = bind(address);
    small_buffers(&listener);
    listener.listen(1024).expect("listen");
    listener.into()
}

/// A socket bound to `address` and ready to listen.
pub(crate) fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("binding {address}: {error}"));
    // On Linux SO_RCVTIMEO limits accept as well.
    socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    socket
}

/// Accepts the next connection of a [`listen`] socket.
pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener
        .accept()
        .unwrap_or_else(|error| panic!("no connection arrived within {TIMEOUT:?}: {error}"));
    patient(&stream);
    stream
}

/// Sets the timeouts of a test's stream and turns off Nagle's algorithm.
pub(crate) fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    stream.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
    stream.set_nodelay(true).expect("TCP_NODELAY");
}

/// Closes the connection with a RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// Reads to the end of the stream, discards the bytes, and returns how the stream ended.
pub fn end_of(stream: &mut TcpStream) -> End {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return End::Clean,
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => return End::Reset,
                ErrorKind::Interrupted => {}
                _ => panic!("waiting for the end of a stream: {error}"),
            },
        }
    }
}

/// Connects, sends nothing, and returns all that the server sends before it closes.
pub fn ask(address: SocketAddr) -> io::Result<String> {
    let mut answer = String::new();
    try_connect(address)?.read_to_string(&mut answer)?;
    Ok(answer)
}
