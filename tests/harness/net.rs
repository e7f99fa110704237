//! Sockets of the tests' own ends: all with timeouts, none that waits for ever.

use std::{
    io::{self, ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::TIMEOUT;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a FIN: everything was said.
    Clean,
    /// With a RST: the peer broke off.
    Reset,
}

/// Size that tests which measure what the program holds give their own buffers; the kernel
/// doubles it for its bookkeeping. Two segments of loopback, or nobody would be spliced.
const SMALL: usize = 128 << 10;

/// Gives a socket fixed small buffers. A listener passes them on to what it accepts.
pub fn small_buffers<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    socket.set_send_buffer_size(SMALL).expect("SO_SNDBUF");
    socket.set_recv_buffer_size(SMALL).expect("SO_RCVBUF");
}

/// Connects with [`TIMEOUT`], also for all later reads and writes.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
}

/// The same, where the connection may be refused or reset.
fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    patient(&stream);
    Ok(stream)
}

/// A listener whose `accept` gives up after [`TIMEOUT`]; port 0 lets the kernel choose.
pub fn listen(address: SocketAddr) -> TcpListener {
    let listener = bind(address);
    listener.listen(1024).expect("listen");
    listener.into()
}

/// Like [`listen`]; the connections it accepts have [`small_buffers`].
pub fn listen_small(address: SocketAddr) -> TcpListener {
    let listener = bind(address);
    small_buffers(&listener);
    listener.listen(1024).expect("listen");
    listener.into()
}

/// A socket bound to `address` that is ready to listen.
pub(crate) fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("binding {address}: {error}"));
    // On Linux this limits accept as well.
    socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    socket
}

/// The next connection of a listener made by [`listen`].
pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener
        .accept()
        .unwrap_or_else(|error| panic!("no connection arrived within {TIMEOUT:?}: {error}"));
    patient(&stream);
    stream
}

/// Sets the timeouts that every stream of a test has, and turns off Nagle's delay.
pub(crate) fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    stream.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
    stream.set_nodelay(true).expect("TCP_NODELAY");
}

/// Breaks the connection off with a RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// Reads to the end, whatever comes, and tells how it ended.
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

/// Connects, says nothing, and returns all that the other side says before it closes.
pub fn ask(address: SocketAddr) -> io::Result<String> {
    let mut answer = String::new();
    try_connect(address)?.read_to_string(&mut answer)?;
    Ok(answer)
}
