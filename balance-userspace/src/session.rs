//! One client, from accept to its end: find a backend, hand both to the datapath, report.
//!
//! Invariant: an attempt is given back to the selector exactly once, also when the task ends
//! by a panic or is dropped at shutdown.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, MutexGuard, PoisonError},
};

use tracing::debug;

use crate::{
    connect::connect,
    datapath::{End, Pair, Pool},
    selection::{Attempt, Selector, client_hash},
    server::Shared,
    stream::Stream,
};

/// Serves a client.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    pool: &Pool,
    client: Rc<Stream>,
    address: SocketAddr,
) {
    let found = tokio::select! {
        found = find_backend(shared, address) => found,
        () = shared.abort.cancelled() => return,
    };
    let Some((turn, backend, server)) = found else {
        shared.totals.unserved();
        debug!(client = %address, "no channel takes the connection");
        // As the classic did: an orderly close without a byte.
        let _ = client.close_cleanly();
        return;
    };
    let pair = Pair { client, backend, cut: shared.abort.clone() };
    let report = shared.datapath.carry(pair, pool).await;
    turn.ended(report.sent, report.rcvd);
    shared.totals.ended(report.sent, report.rcvd);
    debug!(
        client = %address, backend = %server, datapath = %report.datapath,
        sent = report.sent, rcvd = report.rcvd, end = %report.end, "session"
    );
    if !matches!(report.end, End::Clean) {
        shared.totals.broken();
    }
}

/// Tries channels in the selector's order until one takes the connection.
async fn find_backend(
    shared: &Arc<Shared>,
    client: SocketAddr,
) -> Option<(Turn, Rc<Stream>, SocketAddr)> {
    let first = selector(shared).first(client_hash(client.ip().to_canonical()))?;
    let mut turn = Turn { shared: Arc::clone(shared), attempt: Some(first) };
    loop {
        let addresses = Arc::clone(&turn.attempt().addresses);
        match connect(&addresses, shared.connect_timeout, shared.socket_options).await {
            Ok((stream, server)) => return Some((turn, stream, server)),
            Err(error) => {
                let id = turn.attempt().id;
                debug!(%client, group = id.group, channel = id.channel, %error, "connect failed");
                turn.next()?;
            }
        }
    }
}

/// An attempt that goes back to the selector when dropped.
struct Turn {
    shared: Arc<Shared>,
    attempt: Option<Attempt>,
}

impl Turn {
    fn attempt(&self) -> &Attempt {
        self.attempt.as_ref().expect("an attempt is held until it is given back")
    }

    /// The attempt failed: holds the next one, or none is left.
    fn next(&mut self) -> Option<()> {
        let failed = self.attempt.take()?;
        self.attempt = selector(&self.shared).failed(failed);
        self.attempt.as_ref().map(|_| ())
    }

    fn ended(mut self, sent: u64, rcvd: u64) {
        if let Some(attempt) = self.attempt.take() {
            selector(&self.shared).ended(attempt, sent, rcvd);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            selector(&self.shared).ended(attempt, 0, 0);
        }
    }
}

/// The table under its lock. The selector does no I/O and does not panic half-way, so a lock
/// that another thread's panic poisoned still guards a sound table.
fn selector(shared: &Shared) -> MutexGuard<'_, Selector> {
    shared.selector.lock().unwrap_or_else(PoisonError::into_inner)
}
