//! Connections on which no byte moves are closed: after the idle timeout (`-T`), and sooner or
//! later when one side has ended, so that peers that forget to close do not fill a server's seats.
//!
//! Looks at all connections now and then instead of keeping a clock for each, so that the bytes
//! that the kernel moves cost nothing extra. Invariant: a connection is closed no earlier than
//! the limit after its last byte, and no later than an eighth of the shortest limit, ten seconds
//! at most, beyond. Limits that change count for the connections that stand; of bytes that nobody has
//! looked at until then, the last counts as moved at the change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{select, sync::watch};
use tracing::{field::display, info, warn};

use crate::{
    instance::{
        settings::{Limits, Settings},
        table::{Session, Table},
        timer::sleep_for,
    },
    logging::NOTICE,
    throttle::Throttle,
};

static HALF_CLOSED: Throttle = Throttle::new(Duration::from_secs(10));

impl Limits {
    fn shortest(&self) -> Option<Duration> {
        self.idle.into_iter().chain(self.half_closed).min()
    }

    /// Closes a connection that has been idle for too long.
    fn enforce(&self, session: &Session, now: Instant) {
        let Some(since) = session.idle_since(now) else { return };
        let is_over =
            |limit: &Duration| now.checked_duration_since(since).is_some_and(|idle| idle >= *limit);
        if let Some(limit) = self.idle.filter(is_over) {
            warn!(target: NOTICE, "timed out after {} seconds", limit.as_secs());
        } else if let Some(limit) = self.half_closed.filter(is_over)
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

/// Closes idle connections for ever, by the limits in force.
pub(crate) async fn watch(table: &Arc<Table>, mut settings: watch::Receiver<Settings>) {
    loop {
        let limits = settings.borrow_and_update().limits;
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
