//! How the client learns what the server has sent and received: the receiver's count is the
//! one that cannot lie, and for an upload that is the server's.
//!
//! Invariant: a question, one byte, gets one answer, two numbers.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// The numbers, written by the server's thread.
#[derive(Clone, Default)]
pub(super) struct Control(Arc<[AtomicU64; 2]>);

impl Control {
    /// Starts the thread that answers, one client after the other.
    pub(super) fn start() -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let control = Self::default();
        let ours = control.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // It fails when the client has gone.
                let _ = ours.answer(client);
            }
        });
        Ok((control, address))
    }

    /// Makes new numbers known.
    pub(super) fn set(&self, sent: u64, received: u64) {
        self.0[0].store(sent, Ordering::Relaxed);
        self.0[1].store(received, Ordering::Relaxed);
    }

    fn answer(&self, mut client: TcpStream) -> io::Result<()> {
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
