//! Waits for RCU grace periods, so that packets that had passed the hook have arrived at their
//! sockets.
//!
//! A grace period ends when every processor has left the read-side critical section that it was in
//! (Documentation/RCU/whatisRCU.rst). The kernel takes a packet from the hook to its socket in one
//! such section. So the packets that had passed the hook when the wait began have arrived when it
//! ends, however long a processor was delayed, or they sit in the socket backlog until the lock is
//! released. This does not hold for packets that netfilter has given to user space (NFQUEUE), or
//! for fragments that are being reassembled.
//!
//! Invariants: a wait ends with the first period that began after it. All waiters share one thread,
//! and the thread exists only while there are waiters.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use crate::sys;

/// The wait on a kernel that does not report grace periods (with `nohz_full`): about the length of
/// a period.
const FALLBACK: Duration = Duration::from_millis(20);

/// The grace periods of the kernel.
#[derive(Debug, Default)]
pub(super) struct GracePeriods {
    waiters: Arc<Mutex<Waiters>>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Waiters for the next period to begin.
    next: Vec<oneshot::Sender<()>>,
    /// The thread runs.
    is_served: bool,
    /// The kernel does not report grace periods.
    is_unsupported: bool,
    thread: Option<JoinHandle<()>>,
}

impl GracePeriods {
    /// Waits for the end of a grace period that begins from now on: some 10 to 20 ms.
    pub(super) async fn wait(&self) {
        if self.ask().await.is_err() {
            sleep(FALLBACK).await;
        }
    }

    fn ask(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = lock(&self.waiters);
        if waiters.is_unsupported {
            return receiver;
        }
        waiters.next.push(sender);
        if !waiters.is_served {
            let own = Arc::clone(&self.waiters);
            let thread = thread::Builder::new().name("grace".to_owned());
            let last = waiters.thread.take();
            match thread.spawn(move || serve(&own, last)) {
                Ok(thread) => (waiters.thread, waiters.is_served) = (Some(thread), true),
                // Without a thread no waiter can be served. Dropping the senders wakes all waiters.
                Err(_) => waiters.next.clear(),
            }
        }
        receiver
    }

    /// Joins the thread. Called without waiters.
    pub(super) fn join_thread(&self) {
        let thread = lock(&self.waiters).thread.take();
        end(thread);
    }
}

fn end(thread: Option<JoinHandle<()>>) {
    // The thread holds no state that a panic could leave invalid.
    thread.map(JoinHandle::join);
}

/// The body of the thread. `last` is the thread before, which is about to end.
fn serve(waiters: &Mutex<Waiters>, last: Option<JoinHandle<()>>) {
    end(last);
    loop {
        let mut now = lock(waiters);
        let current = mem::take(&mut now.next);
        now.is_served = !current.is_empty();
        drop(now);
        if current.is_empty() {
            return;
        }
        if sys::rcu_grace_period().is_err() {
            // Dropping the senders wakes the waiters, which then use the fallback.
            lock(waiters).is_unsupported = true;
            continue;
        }
        for waiter in current {
            // The waiter may be gone.
            let _ = waiter.send(());
        }
    }
}

fn lock(waiters: &Mutex<Waiters>) -> MutexGuard<'_, Waiters> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waiters_are_woken_and_the_thread_ends() {
        let grace = GracePeriods::default();
        for _ in 0..3 {
            let waiters: Vec<_> = (0..50).map(|_| grace.ask()).collect();
            let woken: Vec<_> =
                waiters.into_iter().map(|waiter| waiter.blocking_recv().is_ok()).collect();
            assert_eq!(woken, [sys::rcu_grace_period().is_ok(); 50]);
            grace.join_thread();
            assert!(!lock(&grace.waiters).is_served);
        }
    }
}
