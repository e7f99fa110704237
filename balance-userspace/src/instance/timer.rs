//! Waits that may have no end.

use std::time::Duration;

use tokio::time::sleep;

/// Sleeps that long; for ever without a duration.
pub(crate) async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}
