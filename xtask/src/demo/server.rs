//! A small server of the demo, which runs as a thread.
//!
//! Invariant: after `stop` nothing listens on the server's address.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

use super::TIMEOUT;

/// A server. Its name, one letter, is part of every answer.
pub(super) struct Server {
    pub(super) name: char,
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    clients: AtomicU64,
    bytes: AtomicU64,
}

impl Server {
    /// Starts a server on a free loopback port.
    pub(super) fn start(name: char) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .with_context(|| format!("server {name} cannot listen"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let listening = thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(name, &listener, &shared)
        });
        Ok(Self { name, address, shared, listening: Some(listening) })
    }

    /// Stops listening.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.shared.stopped.store(true, Relaxed);
        // Wakes the listening thread.
        TcpStream::connect(self.address)
            .with_context(|| format!("cannot stop server {}", self.name))?;
        if let Some(thread) = self.listening.take() {
            thread.join().expect("a server does not panic");
        }
        Ok(())
    }

    /// Returns the number of clients answered.
    pub(super) fn clients(&self) -> u64 {
        self.shared.clients.load(Relaxed)
    }

    /// Returns the number of bytes received.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }
}

fn listen(name: char, listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.stopped.load(Relaxed) {
            return;
        }
        let shared = Arc::clone(shared);
        // The client reports an error of its connection.
        thread::spawn(move || serve(name, &client, &shared));
    }
}

fn serve(name: char, mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(TIMEOUT))?;
    client.write_all(greeting(name).as_bytes())?;
    let mut lines = BufReader::new(client);
    let mut line = Vec::new();
    let mut is_new = true;
    while lines.read_until(b'\n', &mut line)? > 0 {
        shared.clients.fetch_add(u64::from(is_new), Relaxed);
        shared.bytes.fetch_add(line.len() as u64, Relaxed);
        client.write_all(answer(name, line.len()).as_bytes())?;
        line.clear();
        is_new = false;
    }
    Ok(())
}

/// Returns the greeting of a server.
pub(super) fn greeting(name: char) -> String {
    format!("220 server {name} at your service\r\n")
}

/// Returns the answer to a line of this length.
pub(super) fn answer(name: char, bytes: usize) -> String {
    format!("250 server {name} got {bytes} bytes\r\n")
}
