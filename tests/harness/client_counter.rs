//! Servers that count who is with them, and their short visitors: for maxima.
//!
//! Invariant: a visitor is counted from the server's accept until before the end that makes room
//! for the next, so what is counted never exceeds what balance has let in.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{Backend, End, connect, end_of};

/// Connections that a server has.
#[derive(Debug, Default)]
pub struct ClientCounter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl ClientCounter {
    /// A server on a port of 127.0.0.1, and its seats.
    pub fn server() -> (Backend, Arc<Self>) {
        let seats = Arc::<Self>::default();
        let taken = Arc::clone(&seats);
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        (Backend::start(address, move |stream| taken.serve(stream)), seats)
    }

    /// The most that were taken at a time.
    pub fn most(&self) -> usize {
        self.most.load(SeqCst)
    }

    /// Says a byte and stays until the client has ended.
    fn serve(&self, mut stream: TcpStream) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        stream.write_all(b"!").expect("the server's byte");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("the client's byte and its end");
        assert_eq!(said, b"?");
        // Before our end, which makes room for the next.
        self.now.fetch_sub(1, SeqCst);
    }
}

/// A short connection, a byte each way; false if there was no room for it. `told` is called when
/// that is known.
pub fn visit(address: SocketAddr, told: impl FnOnce()) -> bool {
    let mut stream = connect(address);
    let mut byte = [0];
    let served = stream.read(&mut byte).expect("a byte or an orderly close") == 1;
    told();
    if served {
        stream.write_all(b"?").expect("the client's byte");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut stream), End::Clean);
    }
    served
}
