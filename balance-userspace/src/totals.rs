//! Sums over the life of the process, told when it ends.
//!
//! Invariant: only ever grow; each connection is counted once at its start and once at its end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::info;

/// What the process has done so far.
#[derive(Default)]
pub(crate) struct Totals {
    connections: AtomicU64,
    unserved: AtomicU64,
    broken: AtomicU64,
    sent: AtomicU64,
    rcvd: AtomicU64,
}

impl Totals {
    pub(crate) fn accepted(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// No channel took the client.
    pub(crate) fn unserved(&self) {
        self.unserved.fetch_add(1, Relaxed);
    }

    /// A connection is over.
    pub(crate) fn ended(&self, sent: u64, rcvd: u64, clean: bool) {
        self.broken.fetch_add(u64::from(!clean), Relaxed);
        self.sent.fetch_add(sent, Relaxed);
        self.rcvd.fetch_add(rcvd, Relaxed);
    }

    /// Clients accepted, clients not served, connections broken.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.connections, &self.unserved, &self.broken].map(|sum| sum.load(Relaxed))
    }

    pub(crate) fn tell(&self) {
        let [connections, unserved, broken, sent, rcvd] =
            [&self.connections, &self.unserved, &self.broken, &self.sent, &self.rcvd]
                .map(|sum| sum.load(Relaxed));
        info!(connections, unserved, broken, sent, rcvd, "stopped");
    }
}
