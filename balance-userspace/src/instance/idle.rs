//! Closes connections on which no bytes move: after the idle timeout (`-T`), and half-closed
//! connections after the half-close timeout, so that peers that never close do not use up a
//! server's connections.
//!
//! A task inspects all connections at intervals instead of keeping a timer for each, so that bytes
//! moved by the kernel need no accounting in user space.
//!
//! Invariant: a connection is closed no earlier than the limit after its last byte, and no later
//! than the limit plus an eighth of the shortest limit, at most ten seconds. Changed limits apply
//! to the open connections. Bytes that no inspection has seen before the change count as moved at
//! the change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{select, sync::watch};
use tracing::{field::display, info, warn};

use crate::{
    instance::{
        settings::{IdleLimits, Settings},
        table::{Session, Table},
        timer::sleep_for,
    },
    logging::NOTICE,
    throttle::Throttle,
};

static HALF_CLOSED: Throttle = Throttle::new(Duration::from_secs(10));

impl IdleLimits {
    fn shortest(&self) -> Option<Duration> {
        self.idle.into_iter().chain(self.half_closed).min()
    }

    /// Closes a connection that has been idle for longer than its limit.
    fn enforce(&self, session: &Session, now: Instant) {
        let Some(since) = session.idle_since(now) else { return };
        let is_reached =
            |limit: &Duration| now.checked_duration_since(since).is_some_and(|idle| idle >= *limit);
        if let Some(limit) = self.idle.filter(is_reached) {
            warn!(target: NOTICE, "timed out after {} seconds", limit.as_secs());
        } else if let Some(limit) = self.half_closed.filter(is_reached)
            && session.traffic.is_half_closed()
        {
            if let Some(suppressed) = HALF_CLOSED.pass(now) {
                let (client, (sent, rcvd)) = (session.client, session.traffic.read());
                let server = session.target().backend.map(display);
                let seconds = limit.as_secs();
                info!(
                    %client, server, sent, rcvd, seconds, suppressed,
                    "half-closed connection timed out"
                );
            }
        } else {
            return;
        }
        session.abort.close();
    }
}

/// Closes idle connections, by the limits of the current settings, until the settings' sender is
/// gone.
pub(crate) async fn watch(table: &Arc<Table>, mut settings: watch::Receiver<Settings>) {
    loop {
        let limits = settings.borrow_and_update().idle_limits;
        let shortest = limits.shortest();
        if shortest.is_some() {
            let now = Instant::now();
            let sessions: Vec<_> = table.lock().sessions().map(Arc::clone).collect();
            for session in sessions {
                limits.enforce(&session, now);
            }
        }
        let pause = shortest
            .map(|limit| (limit / 8).clamp(Duration::from_millis(50), Duration::from_secs(10)));
        select! {
            () = sleep_for(pause) => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}
