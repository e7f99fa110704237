//! Totals over the life of the process, shown by `stats` and logged at the end.
//!
//! Invariant: at any moment the number of accepted clients is the sum of the open clients and of
//! the clients of each outcome. A client is counted once at its start and once at its end, also
//! when its task panics or is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::info;

/// The totals of the process so far.
#[derive(Default)]
pub(crate) struct Totals(Mutex<Counts>);

/// The totals at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Accepted clients: the sum of the following five.
    pub(crate) accepted: u64,
    /// Open clients.
    pub(crate) open: u64,
    /// Connections that both sides closed in order.
    pub(crate) clean: u64,
    /// Connections with a server that ended in any other way.
    pub(crate) broken: u64,
    /// Clients for which no channel was usable.
    pub(crate) unserved: u64,
    /// Clients that disconnected, or were aborted, before they had a server.
    pub(crate) left: u64,
    /// Bytes from the clients of ended connections.
    pub(crate) sent: u64,
    /// Bytes to those clients.
    pub(crate) rcvd: u64,
}

/// The outcome of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client had a server.
    Served { sent: u64, rcvd: u64, clean: bool },
    /// No channel was usable.
    Unserved,
    /// The client disconnected, or was aborted, before it had a server.
    Left,
}

impl Totals {
    /// Counts an accepted client. The client is open until the returned value is dropped.
    pub(crate) fn accepted(self: &Arc<Self>) -> OpenClient {
        let mut counts = self.lock();
        counts.accepted += 1;
        counts.open += 1;
        OpenClient { totals: Arc::clone(self), outcome: None }
    }

    /// The totals at this moment.
    pub(crate) fn counts(&self) -> Counts {
        *self.lock()
    }

    /// Logs the totals at the end of the process.
    pub(crate) fn log(&self) {
        let Counts { accepted, clean, broken, unserved, left, sent, rcvd, .. } = self.counts();
        info!(connections = accepted, unserved, left, broken, clean, sent, rcvd, "stopped");
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client counted as open.
pub(crate) struct OpenClient {
    totals: Arc<Totals>,
    outcome: Option<Outcome>,
}

impl OpenClient {
    /// Counts the client as ended with an outcome.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        let mut counts = self.totals.lock();
        counts.open -= 1;
        match self.outcome {
            Some(Outcome::Served { sent, rcvd, clean }) => {
                *(if clean { &mut counts.clean } else { &mut counts.broken }) += 1;
                counts.sent += sent;
                counts.rcvd += rcvd;
            }
            Some(Outcome::Unserved) => counts.unserved += 1,
            Some(Outcome::Left) => counts.left += 1,
            // The client's task has panicked.
            None => counts.broken += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_in_one_of_the_totals() {
        let totals = Arc::new(Totals::default());
        let clients: Vec<_> = (0..6).map(|_| totals.accepted()).collect();
        assert_eq!(totals.counts(), Counts { accepted: 6, open: 6, ..Counts::default() });
        let served = |clean| Outcome::Served { sent: 1, rcvd: 2, clean };
        let outcomes = [served(true), served(false), Outcome::Unserved, Outcome::Left];
        for (i, client) in clients.into_iter().enumerate() {
            match outcomes.get(i) {
                Some(&outcome) => client.end(outcome),
                None => drop(client),
            }
            let Counts { accepted, open, clean, broken, unserved, left, .. } = totals.counts();
            assert_eq!(accepted, open + clean + broken + unserved + left);
        }
        let Counts { open, clean, broken, unserved, left, sent, rcvd, .. } = totals.counts();
        assert_eq!([open, clean, broken, unserved, left, sent, rcvd], [0, 1, 3, 1, 1, 2, 4]);
    }
}
