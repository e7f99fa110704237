//! Timers that may be off.
//!
//! Invariant: a timer without a duration never fires.

use std::time::Duration;

use tokio::time::sleep;

/// Sleeps for `duration`; for ever if it is `None`.
pub(crate) async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}
