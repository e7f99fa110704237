//! Servers that count their concurrent clients, for tests of connection limits.
//!
//! Invariant: a server counts a client from its accept until before the close that frees the
//! client's permit. So the count never exceeds the number of clients that balance admits.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{Backend, End, connect, end_of};

/// Number of concurrent connections of one server.
#[derive(Debug, Default)]
pub struct ClientCounter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl ClientCounter {
    /// Starts a server on a port of 127.0.0.1; returns the server and its counter.
    pub fn server() -> (Backend, Arc<Self>) {
        let counter = Arc::<Self>::default();
        let shared = Arc::clone(&counter);
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        (Backend::start(address, move |stream| shared.serve(stream)), counter)
    }

    /// The highest number of concurrent connections so far.
    pub fn most(&self) -> usize {
        self.most.load(SeqCst)
    }

    /// Sends a byte and waits until the client has closed.
    fn serve(&self, mut stream: TcpStream) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        stream.write_all(b"!").expect("the server's byte");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the client's byte and its end");
        assert_eq!(received, b"?");
        // Before our FIN, which frees the permit for the next client.
        self.now.fetch_sub(1, SeqCst);
    }
}

/// Opens a short connection with one byte each way; returns false if balance closes it at once.
/// Calls `decided` as soon as the result is known.
pub fn visit(address: SocketAddr, decided: impl FnOnce()) -> bool {
    let mut stream = connect(address);
    let mut byte = [0];
    let served = stream.read(&mut byte).expect("a byte or an orderly close") == 1;
    decided();
    if served {
        stream.write_all(b"?").expect("the client's byte");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut stream), End::Clean);
    }
    served
}
