//! How a connection is ended from outside, from any thread.
//!
//! Invariant: whatever asks first decides that the connection ends; an orderly close never turns into a
//! reset.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio_util::sync::CancellationToken;

/// A way to end a connection from outside, from any thread.
#[derive(Debug, Default)]
pub(crate) struct AbortHandle {
    token: CancellationToken,
    orderly: AtomicBool,
}

impl AbortHandle {
    /// One that also ends, with a reset, when `token` does.
    pub(crate) fn below(token: &CancellationToken) -> Self {
        Self { token: token.child_token(), orderly: AtomicBool::new(false) }
    }

    /// Resets both sides.
    pub(crate) fn reset(&self) {
        self.token.cancel();
    }

    /// Closes both sides in an orderly way: for a connection on which nothing moves.
    pub(crate) fn close(&self) {
        self.orderly.store(true, SeqCst);
        self.token.cancel();
    }

    /// Waits until the connection is to end.
    pub(super) async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Whether it is the latter.
    pub(super) fn is_orderly(&self) -> bool {
        self.orderly.load(SeqCst)
    }
}
