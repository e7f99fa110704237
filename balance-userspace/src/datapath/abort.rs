//! Ends a connection from outside its task, from any thread.
//!
//! Invariant: the first request ends the connection. An orderly close never becomes a reset.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio_util::sync::CancellationToken;

/// Ends one connection, from any thread.
#[derive(Debug, Default)]
pub(crate) struct AbortHandle {
    token: CancellationToken,
    orderly: AtomicBool,
}

impl AbortHandle {
    /// A handle for a connection that is also reset when `token` is cancelled.
    pub(crate) fn child_of(token: &CancellationToken) -> Self {
        Self { token: token.child_token(), orderly: AtomicBool::new(false) }
    }

    /// Resets both sides.
    pub(crate) fn reset(&self) {
        self.token.cancel();
    }

    /// Closes both sides with FIN. Only for a connection on which no bytes move.
    pub(crate) fn close(&self) {
        self.orderly.store(true, SeqCst);
        self.token.cancel();
    }

    /// Waits for a request to end the connection.
    pub(super) async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether the request is to close and not to reset.
    pub(super) fn is_orderly(&self) -> bool {
        self.orderly.load(SeqCst)
    }
}
