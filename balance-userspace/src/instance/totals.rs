//! Sums over the life of the process, shown by `stats` and told when it ends.
//!
//! Invariant: at any moment the clients accepted are those that are open plus those that have ended in
//! each of the ways listed; each is counted once at its start and once at its end, also when its task
//! panics or is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::info;

/// What the process has done so far.
#[derive(Default)]
pub(crate) struct Totals(Mutex<Counts>);

/// The sums of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Clients accepted: the sum of the following five.
    pub(crate) accepted: u64,
    /// Clients at the moment.
    pub(crate) open: u64,
    /// Connections that both sides have ended in order.
    pub(crate) clean: u64,
    /// Connections with a server that ended in another way.
    pub(crate) broken: u64,
    /// Clients that no channel took.
    pub(crate) unserved: u64,
    /// Clients that left, or were cut off, before they had a server.
    pub(crate) left: u64,
    /// Bytes from clients whose connections are over.
    pub(crate) sent: u64,
    /// Bytes to them.
    pub(crate) rcvd: u64,
}

/// How it ended for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It had a server.
    Served { sent: u64, rcvd: u64, clean: bool },
    /// No channel took it.
    Unserved,
    /// It left, or was cut off, before it had a server.
    Left,
}

impl Totals {
    /// Counts a client, which is open until what is returned is dropped.
    pub(crate) fn accepted(self: &Arc<Self>) -> OpenClient {
        let mut counts = self.lock();
        counts.accepted += 1;
        counts.open += 1;
        OpenClient { totals: Arc::clone(self), outcome: None }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.lock()
    }

    pub(crate) fn tell(&self) {
        let Counts { accepted, clean, broken, unserved, left, sent, rcvd, .. } = self.counts();
        info!(connections = accepted, unserved, left, broken, clean, sent, rcvd, "stopped");
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is counted as open.
pub(crate) struct OpenClient {
    totals: Arc<Totals>,
    outcome: Option<Outcome>,
}

impl OpenClient {
    /// Ends it.
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
            // Its task panicked.
            None => counts.broken += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_in_one_of_the_sums() {
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
