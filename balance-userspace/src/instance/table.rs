//! The table of channels and their sessions, shared by all workers and the control socket.
//!
//! Invariants: one lock guards the table; it is held for a short time and never across I/O. A
//! client is in the list of sessions exactly as long as its channel counts it, so the counters and
//! the list always agree. A lease is returned exactly once, also when its task panics or is
//! dropped.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use slab::Slab;

use crate::{
    datapath::{AbortHandle, Traffic},
    selection::{Attempt, ChangeError, ChannelId, ChannelKey, Policy, Selector, client_hash},
};

/// The channels and sessions, behind one lock.
pub(crate) struct Table {
    inner: Mutex<Inner>,
}

/// The locked table.
pub(crate) struct Inner {
    pub(crate) selector: Selector,
    sessions: Slab<Arc<Session>>,
}

/// A client with a lease on a channel.
pub(crate) struct Session {
    pub(crate) client: SocketAddr,
    pub(crate) since: Instant,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) abort: Arc<AbortHandle>,
    target: Mutex<SessionTarget>,
}

/// The channel and the server of a session at the moment.
#[derive(Clone, Copy)]
pub(crate) struct SessionTarget {
    pub(crate) channel: ChannelKey,
    /// The local address towards the server, once connected.
    pub(crate) source: Option<SocketAddr>,
    /// The server's address, once connected.
    pub(crate) backend: Option<SocketAddr>,
    /// The byte count when an inspection last found a change, and the time of that inspection.
    last_change: (u64, Instant),
}

impl Session {
    pub(crate) fn target(&self) -> SessionTarget {
        *lock(&self.target)
    }

    /// When the byte count last changed, as far as calls of this function have seen; `None` before
    /// the session is connected.
    pub(crate) fn idle_since(&self, now: Instant) -> Option<Instant> {
        let (sent, rcvd) = self.traffic.read();
        let bytes = sent + rcvd;
        let mut target = lock(&self.target);
        target.backend?;
        if target.last_change.0 != bytes {
            target.last_change = (bytes, now);
        }
        Some(target.last_change.1)
    }
}

impl Table {
    pub(crate) fn new(selector: Selector) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { selector, sessions: Slab::new() }) })
    }

    /// Locks the table.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The name of the server of a channel, for logs; `None` if the channel is gone.
    pub(crate) fn server_name(&self, channel: ChannelKey) -> Option<Arc<str>> {
        self.lock().selector.by_key(channel).map(|channel| Arc::clone(&channel.name))
    }

    /// The position of a channel, and the policy of selection.
    pub(crate) fn find(&self, channel: ChannelKey) -> (Option<ChannelId>, Policy) {
        let inner = self.lock();
        (inner.selector.position(channel), inner.selector.policy())
    }

    /// Gives a client a lease on its first channel; `None` if no channel is usable.
    pub(crate) fn first(
        self: &Arc<Self>,
        client: SocketAddr,
        abort: AbortHandle,
    ) -> Option<ChannelLease> {
        let mut inner = self.lock();
        let attempt = inner.selector.first(client_hash(client.ip().to_canonical()))?;
        let now = Instant::now();
        let session = Arc::new(Session {
            client,
            since: now,
            traffic: Arc::default(),
            abort: Arc::new(abort),
            target: Mutex::new(SessionTarget {
                channel: attempt.key,
                source: None,
                backend: None,
                last_change: (0, now),
            }),
        });
        let key = inner.sessions.insert(Arc::clone(&session));
        Some(ChannelLease { table: Arc::clone(self), key, session, attempt: Some(attempt) })
    }
}

impl Inner {
    /// All open sessions, in no order.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The open sessions of a channel.
    pub(crate) fn sessions_of(&self, channel: ChannelKey) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions().filter(move |session| session.target().channel == channel)
    }

    /// Sets the counters of a channel to zero.
    pub(crate) fn reset(&mut self, id: ChannelId) -> Result<(), ChangeError> {
        let key = self.selector.channel(id)?.key;
        let live = self.sessions_of(key).map(|session| session.traffic.read());
        let (sent, rcvd) = live.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        self.selector.reset(id, sent, rcvd)
    }
}

/// A client's lease on a channel, from its first attempt to its end.
pub(crate) struct ChannelLease {
    table: Arc<Table>,
    key: usize,
    pub(crate) session: Arc<Session>,
    /// `None` only after the lease has ended.
    attempt: Option<Attempt>,
}

impl ChannelLease {
    /// The channel to connect to, with its addresses.
    pub(crate) fn attempt(&self) -> &Attempt {
        self.attempt.as_ref().expect("a lease has an attempt until it is over")
    }

    /// The attempt failed: moves to the next channel. False if there is none.
    pub(crate) fn connect_failed(&mut self) -> bool {
        self.advance(Selector::connect_failed)
    }

    /// There is no local port for a connection to the channel: moves to the next channel, or to one
    /// that is to be tried again. False if there is none.
    pub(crate) fn no_local_port(&mut self) -> bool {
        self.advance(Selector::no_local_port)
    }

    fn advance(&mut self, step: impl FnOnce(&mut Selector, Attempt) -> Option<Attempt>) -> bool {
        let mut inner = self.table.lock();
        let Some(failed) = self.attempt.take() else { return false };
        self.attempt = step(&mut inner.selector, failed);
        match &self.attempt {
            Some(attempt) => {
                lock(&self.session.target).channel = attempt.key;
                true
            }
            None => {
                inner.sessions.remove(self.key);
                false
            }
        }
    }

    /// The attempt has connected to `backend` from the local address `source`.
    pub(crate) fn connected(&self, backend: SocketAddr, source: Option<SocketAddr>) {
        let mut target = lock(&self.session.target);
        target.source = source;
        target.backend = Some(backend);
        target.last_change.1 = Instant::now();
    }
}

impl Drop for ChannelLease {
    fn drop(&mut self) {
        let mut inner = self.table.lock();
        if let Some(attempt) = self.attempt.take() {
            let (sent, rcvd) = self.session.traffic.read();
            inner.selector.end(attempt, sent, rcvd);
            inner.sessions.remove(self.key);
        }
    }
}

/// Locks a mutex and ignores poisoning. The data is consistent after a panic, because no holder of
/// these locks panics in the middle of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::{ChannelConfig, GroupConfig, Method, ResolvedServer};

    fn table(channels: usize) -> Arc<Table> {
        let server = ResolvedServer::default();
        let channels = vec![ChannelConfig { server, max: 1 }; channels];
        let groups = vec![GroupConfig { method: Method::RoundRobin, channels }];
        Table::new(Selector::new(groups, Policy::default()))
    }

    fn client() -> SocketAddr {
        ([127, 0, 0, 1], 4000).into()
    }

    #[test]
    fn a_session_is_listed_as_long_as_its_channel_counts_it() {
        let table = table(2);
        let counted = |table: &Table| {
            let inner = table.lock();
            let current: u32 = inner.selector.groups()[0].channels.iter().map(|c| c.current).sum();
            (current as usize, inner.sessions().count())
        };
        let mut first = table.first(client(), AbortHandle::default()).unwrap();
        let second = table.first(client(), AbortHandle::default()).unwrap();
        assert!(table.first(client(), AbortHandle::default()).is_none(), "both are full");
        assert_eq!(counted(&table), (2, 2));
        drop(second);
        assert_eq!(counted(&table), (1, 1));
        assert!(first.connect_failed());
        let position = table.lock().selector.position(first.session.target().channel);
        assert_eq!(position, Some(ChannelId { group: 0, channel: 1 }));
        assert!(!first.connect_failed());
        assert_eq!(counted(&table), (0, 0));
        drop(first);
        assert_eq!(counted(&table), (0, 0));
    }
}
