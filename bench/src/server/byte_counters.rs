//! How the client learns what the server has sent and received: the receiver's count is the
//! one that cannot lie, and for an upload that is the server's. Both meet at a file, wherever
//! their networks are.
//!
//! Invariant: a question, one byte, gets one answer, two numbers.

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

/// The numbers, written by the server's thread.
#[derive(Clone, Default)]
pub(super) struct ByteCounters(Arc<[AtomicU64; 2]>);

impl ByteCounters {
    /// Starts the thread that answers, one client after the other.
    pub(super) fn start(socket: &Path) -> io::Result<Self> {
        // A server that was killed has left one there, or there is none.
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        let counters = Self::default();
        let ours = counters.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // It fails when the client has gone.
                let _ = ours.answer(client);
            }
        });
        Ok(counters)
    }

    /// Makes new numbers known.
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
