//! Limits of control clients: how many are served at a time, and how many wait for a drain.
//!
//! Invariants:
//! - A client holds a permit while balance reads from or writes to it, and none while its command
//!   waits. So waiting clients keep no other client out. A limit of their own bounds them.
//! - Clients that may only read have permits of their own and do not queue. So they keep neither
//!   root nor the owner out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most control clients at a time. Each holds a descriptor that a connection could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// Clients of root and the owner that are served; further clients queue.
    pub(crate) served: usize,
    /// Clients of other users that are served; further clients are refused.
    pub(crate) reading: usize,
    /// Clients that wait for a drain.
    pub(crate) waiting: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { served: 64, reading: 32, waiting: 256 }
    }
}

impl ClientLimits {
    /// Returns these limits, each lowered to `count` if it is higher.
    pub(crate) fn at_most(self, count: usize) -> Self {
        Self {
            served: self.served.min(count),
            reading: self.reading.min(count),
            waiting: self.waiting.min(count),
        }
    }
}

/// Hands out permits within the limits.
pub(super) struct ClientLimiter {
    served: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Permission to be served, held by one client.
pub(crate) struct ClientPermit {
    limiter: Arc<ClientLimiter>,
    semaphore: Arc<Semaphore>,
    /// None while the client waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl ClientLimiter {
    /// Returns a limiter with every permit free.
    pub(super) fn new(limits: ClientLimits) -> Arc<Self> {
        Arc::new(Self {
            served: Arc::new(Semaphore::new(limits.served)),
            reading: Arc::new(Semaphore::new(limits.reading)),
            waiting: Semaphore::new(limits.waiting),
        })
    }

    /// Waits for a free permit of root and the owner.
    pub(super) async fn acquire(self: &Arc<Self>) -> ClientPermit {
        let semaphore = Arc::clone(&self.served);
        let permit = permit(&semaphore).await;
        ClientPermit { limiter: Arc::clone(self), semaphore, permit }
    }

    /// Returns a permit of the other users if one is free.
    pub(super) fn try_acquire_reading(self: &Arc<Self>) -> Option<ClientPermit> {
        let semaphore = Arc::clone(&self.reading);
        let permit = Some(Arc::clone(&semaphore).try_acquire_owned().ok()?);
        Some(ClientPermit { limiter: Arc::clone(self), semaphore, permit })
    }
}

/// Waits for a permit of the semaphore. `None` only if the semaphore is closed, which never
/// happens.
async fn permit(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_owned().await.ok()
}

impl ClientPermit {
    /// Releases the permit, waits for `event`, and acquires a permit again. Returns `None` at once
    /// when too many clients wait already.
    pub(super) async fn release_during<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let limiter = Arc::clone(&self.limiter);
        let _waiting = limiter.waiting.try_acquire().ok()?;
        self.permit = None;
        let result = event.await;
        self.permit = permit(&self.semaphore).await;
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
        let limits = ClientLimits { served: 3, reading: 1, waiting: 5 };
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

    #[tokio::test]
    async fn readers_keep_no_owner_out_and_are_limited() {
        let limiter = ClientLimiter::new(ClientLimits { served: 1, reading: 2, waiting: 1 });
        let readers = [limiter.try_acquire_reading(), limiter.try_acquire_reading()];
        assert!(readers.iter().all(Option::is_some));
        assert!(limiter.try_acquire_reading().is_none());
        let owner = limiter.acquire().await;
        drop(readers);
        let _reader = limiter.try_acquire_reading().unwrap();
        assert!(timeout(std::time::Duration::ZERO, limiter.acquire()).await.is_err());
        drop(owner);
        limiter.acquire().await;
    }
}
