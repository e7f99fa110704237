//! How many control clients are served at a time, and how many wait for the end of a drain.
//!
//! Invariant: a client has a seat whenever it is read from or written to, and none while it waits;
//! so those that wait keep nobody out, and they are bounded apart.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many clients there may be. Each holds a descriptor that a connection could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Clients served at a time; more queue up.
    pub(crate) served: usize,
    /// Clients that wait at a time.
    pub(crate) waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { served: 64, waiting: 256 }
    }
}

impl Limits {
    /// These limits, each lowered to `count` if it is higher.
    pub(crate) fn at_most(self, count: usize) -> Self {
        Self { served: self.served.min(count), waiting: self.waiting.min(count) }
    }
}

/// The seats.
pub(super) struct Seats {
    served: Arc<Semaphore>,
    waiting: Semaphore,
}

/// A client's seat.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// There unless the client waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl Seats {
    /// All free.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            served: Arc::new(Semaphore::new(limits.served)),
            waiting: Semaphore::new(limits.waiting),
        })
    }

    /// The next seat that is free.
    pub(super) async fn take(self: &Arc<Self>) -> Seat {
        let permit = self.permit().await;
        Seat { seats: Arc::clone(self), permit }
    }

    /// `None` if the semaphore were closed, which nobody does.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.served).acquire_owned().await.ok()
    }
}

impl Seat {
    /// Waits for `event` without the seat, and takes one again; `None`, at once, when too many
    /// wait already.
    pub(super) async fn leave_for<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let seats = Arc::clone(&self.seats);
        let _waiting = seats.waiting.try_acquire().ok()?;
        self.permit = None;
        let result = event.await;
        self.permit = seats.permit().await;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_waits_keeps_nobody_out_and_is_bounded() {
        let limits = Limits { served: 3, waiting: 5 };
        let seats = Seats::new(limits);
        let waiting: Vec<_> = (0..limits.waiting)
            .map(|_| {
                let seats = Arc::clone(&seats);
                tokio::spawn(async move { seats.take().await.leave_for(pending::<()>()).await })
            })
            .collect();
        while seats.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut served = Vec::new();
        for _ in 0..limits.served {
            served.push(seats.take().await);
        }
        assert!(timeout(std::time::Duration::ZERO, seats.take()).await.is_err());
        assert_eq!(served[0].leave_for(ready(1)).await, None);
        for task in waiting {
            task.abort();
            assert!(task.await.is_err());
        }
        assert_eq!(served[0].leave_for(ready(1)).await, Some(1));
        assert!(timeout(std::time::Duration::ZERO, seats.take()).await.is_err());
    }
}
