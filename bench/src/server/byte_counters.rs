//! The byte counters of the server, which the client reads through a Unix socket.
//!
//! The receiver's count is the reliable one, and an upload arrives at the server. The path of the
//! socket is the same in all network namespaces.
//!
//! Invariant: a request is one byte, and the response is two numbers.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Bytes sent and received. The serving thread writes them.
#[derive(Clone, Default)]
pub(super) struct ByteCounters(Arc<[AtomicU64; 2]>);

impl ByteCounters {
    /// Starts the thread that answers requests, one client after the other.
    pub(super) fn start(socket: &Path) -> io::Result<Self> {
        // Removes the socket of a killed server. An error means that there is none.
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        let counters = Self::default();
        let ours = counters.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The error means that the client has disconnected.
                let _ = ours.answer(client);
            }
        });
        Ok(counters)
    }

    /// Stores the counters.
    pub(super) fn set(&self, sent: u64, received: u64) {
        self.0[0].store(sent, Ordering::Relaxed);
        self.0[1].store(received, Ordering::Relaxed);
    }

    fn answer(&self, mut client: UnixStream) -> io::Result<()> {
        loop {
            client.read_exact(&mut [0])?;
            let [sent, received] = self.0.each_ref().map(|n| n.load(Ordering::Relaxed));
            let mut answer = [0; 16];
            answer[..8].copy_from_slice(&sent.to_be_bytes());
            answer[8..].copy_from_slice(&received.to_be_bytes());
            client.write_all(&answer)?;
        }
    }
}
