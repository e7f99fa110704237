//! The idle timeout (`-T`): connections on which no byte moves are closed.
//!
//! Looks at all connections now and then instead of keeping a clock for each, so that the bytes
//! that the kernel moves cost nothing extra. Invariant: a connection is closed no earlier than
//! the limit after its last byte, and no later than an eighth of the limit, or a second, beyond.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::warn;

use crate::{logging::NOTICE, table::Table};

/// Closes idle connections for ever.
pub(crate) async fn watch(table: &Arc<Table>, limit: Duration) {
    let pause = (limit / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        sleep(pause).await;
        let now = Instant::now();
        let sessions: Vec<_> = table.lock().sessions().map(Arc::clone).collect();
        for session in sessions {
            let idle = session.idle_since(now);
            if idle.is_some_and(|since| now.duration_since(since) >= limit) {
                warn!(target: NOTICE, "timed out after {} seconds", limit.as_secs());
                session.cut.close();
            }
        }
    }
}
