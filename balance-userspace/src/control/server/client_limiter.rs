//! Limits of control clients: how many are served at a time, and how many wait for a drain.
//!
//! Invariant: a client holds a permit while balance reads from or writes to it, and none while its
//! command waits. So waiting clients keep no other client out. A limit of their own bounds them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most control clients at a time. Each holds a descriptor that a connection could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// Clients that are served; further clients queue.
    pub(crate) served: usize,
    /// Clients that wait for a drain.
    pub(crate) waiting: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { served: 64, waiting: 256 }
    }
}

impl ClientLimits {
    /// Returns these limits, each lowered to `count` if it is higher.
    pub(crate) fn at_most(self, count: usize) -> Self {
        Self { served: self.served.min(count), waiting: self.waiting.min(count) }
    }
}

/// Hands out permits within the limits.
pub(super) struct ClientLimiter {
    served: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Permission to be served, held by one client.
pub(crate) struct ClientPermit {
    limiter: Arc<ClientLimiter>,
    /// None while the client waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl ClientLimiter {
    /// Returns a limiter with every permit free.
    pub(super) fn new(limits: ClientLimits) -> Arc<Self> {
        Arc::new(Self {
            served: Arc::new(Semaphore::new(limits.served)),
            waiting: Semaphore::new(limits.waiting),
        })
    }

    /// Waits for a free permit.
    pub(super) async fn acquire(self: &Arc<Self>) -> ClientPermit {
        let permit = self.permit().await;
        ClientPermit { limiter: Arc::clone(self), permit }
    }

    /// Waits for a permit of the semaphore. `None` only if the semaphore is closed, which never
    /// happens.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.served).acquire_owned().await.ok()
    }
}

impl ClientPermit {
    /// Releases the permit, waits for `event`, and acquires a permit again. Returns `None` at once
    /// when too many clients wait already.
    pub(super) async fn release_during<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let limiter = Arc::clone(&self.limiter);
        let _waiting = limiter.waiting.try_acquire().ok()?;
        self.permit = None;
        let result = event.await;
        self.permit = limiter.permit().await;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn waiting_clients_keep_no_client_out_and_are_limited() {
        let limits = ClientLimits { served: 3, waiting: 5 };
        let limiter = ClientLimiter::new(limits);
        let waiting: Vec<_> = (0..limits.waiting)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                tokio::spawn(async move {
                    limiter.acquire().await.release_during(pending::<()>()).await
                })
            })
            .collect();
        while limiter.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut served = Vec::new();
        for _ in 0..limits.served {
            served.push(limiter.acquire().await);
        }
        assert!(timeout(std::time::Duration::ZERO, limiter.acquire()).await.is_err());
        assert_eq!(served[0].release_during(ready(1)).await, None);
        for task in waiting {
            task.abort();
            assert!(task.await.is_err());
        }
        assert_eq!(served[0].release_during(ready(1)).await, Some(1));
        assert!(timeout(std::time::Duration::ZERO, limiter.acquire()).await.is_err());
    }
}
