//! Servers that the tests put behind the program.

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

/// A server with a thread for each connection. Ends its listener when dropped; connections that
/// stand go on until their peer ends them.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    listener: Arc<Socket>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Serves each connection that arrives at `address` with `serve`; port 0 lets the kernel
    /// choose.
    pub fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Backend {
        let socket = bind(address);
        // Waits for connections as long as the test runs: dropping us ends it.
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

    /// A server at 127.0.0.1 that says its name and closes.
    pub fn greeter(name: &'static str) -> Backend {
        Self::greeter_at((Ipv4Addr::LOCALHOST, 0).into(), name)
    }

    /// A server that says its name and closes.
    pub fn greeter_at(address: SocketAddr, name: &'static str) -> Backend {
        Self::start(address, move |mut stream| {
            // A client that left early is the test's business, not ours.
            let _ = stream.write_all(name.as_bytes());
        })
    }

    /// A server at 127.0.0.1 that says its name and then sends back what it gets, until the
    /// client has ended.
    pub fn echo(name: &'static str) -> Backend {
        Self::echo_at((Ipv4Addr::LOCALHOST, 0).into(), name)
    }

    /// The same at another address.
    pub fn echo_at(address: SocketAddr, name: &'static str) -> Backend {
        Self::start(address, move |mut stream| {
            // As long as the other side keeps it: longer than one read's patience.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the thread out of accept.
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
