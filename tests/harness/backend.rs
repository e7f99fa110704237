//! Servers for the tests, reached through the program.
//!
//! Invariant: dropping a [`Backend`] ends its listener and its accepting thread.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use socket2::Socket;

use crate::net::{bind, patient};

/// A server with one thread a connection. Dropping it closes the listener; open connections last
/// until their peer closes them.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    listener: Arc<Socket>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Calls `serve` on its own thread for each connection to `address`. Port 0 lets the kernel
    /// choose.
    pub fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Backend {
        let socket = bind(address);
        // No timeout: accept waits for as long as the test runs, and Drop ends the wait.
        socket.set_read_timeout(None).expect("SO_RCVTIMEO");
        socket.listen(4096).expect("listen");
        let address = socket.local_addr().expect("getsockname");
        let listener = Arc::new(socket);
        let accepted = Arc::new(AtomicUsize::new(0));
        let (accepting, counter) = (listener.clone(), accepted.clone());
        let thread = thread::spawn(move || {
            while let Ok((socket, _)) = accepting.accept() {
                counter.fetch_add(1, Ordering::Relaxed);
                let stream = TcpStream::from(socket);
                patient(&stream);
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
        Backend {
            address: address.as_socket().expect("an IP address"),
            listener,
            accepted,
            thread: Some(thread),
        }
    }

    /// A server at 127.0.0.1 that sends its name and closes.
    pub fn greeter(name: &'static str) -> Backend {
        Self::greeter_at((Ipv4Addr::LOCALHOST, 0).into(), name)
    }

    /// A server at `address` that sends its name and closes.
    pub fn greeter_at(address: SocketAddr, name: &'static str) -> Backend {
        Self::start(address, move |mut stream| {
            // A write fails when the client has already closed; the test notices that itself.
            let _ = stream.write_all(name.as_bytes());
        })
    }

    /// A server at 127.0.0.1 that sends its name and then echoes, until the client closes.
    pub fn echo(name: &'static str) -> Backend {
        Self::echo_at((Ipv4Addr::LOCALHOST, 0).into(), name)
    }

    /// A server at `address` that sends its name and then echoes, until the client closes.
    pub fn echo_at(address: SocketAddr, name: &'static str) -> Backend {
        Self::start(address, move |mut stream| {
            // No timeout: the connection may be silent for longer than [`TIMEOUT`](crate::TIMEOUT).
            stream.set_read_timeout(None).expect("SO_RCVTIMEO");
            let _ = stream.write_all(name.as_bytes());
            let mut buffer = vec![0; 16 << 10];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the thread that waits in accept.
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
