//! Waits until whatever the kernel was doing with packets is done: a grace period of RCU, which ends when
//! every processor has left what it was in the middle of (Documentation/RCU/whatisRCU.rst). A packet is
//! taken from the hook to its socket in one such stretch, so those that had passed the hook when the wait
//! began have arrived when it is over, however long a processor was kept from going on; or somebody has
//! the socket, and they have when that lets go of it. Not those that netfilter has given to user space
//! (NFQUEUE), or that are put together from pieces.
//!
//! Invariant: a wait is over with the first period that began after it. All that wait share one thread, and
//! there is none while nobody waits.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use crate::sys;

/// What is waited for where the kernel does not tell (with `nohz_full`): about as long as a period takes.
const LONG: Duration = Duration::from_millis(20);

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Grace {
    waits: Arc<Mutex<Waits>>,
}

#[derive(Debug, Default)]
struct Waits {
    /// For the next period to begin.
    next: Vec<oneshot::Sender<()>>,
    /// A thread looks after them.
    is_looked_after: bool,
    /// The kernel does not tell.
    is_untold: bool,
    thread: Option<JoinHandle<()>>,
}

impl Grace {
    /// Waits for the end of a period that begins from now on: some 10 to 20 ms.
    pub(super) async fn period(&self) {
        if self.ask().await.is_err() {
            sleep(LONG).await;
        }
    }

    fn ask(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut waits = lock(&self.waits);
        if waits.is_untold {
            return receiver;
        }
        waits.next.push(sender);
        if !waits.is_looked_after {
            let own = Arc::clone(&self.waits);
            let thread = thread::Builder::new().name("grace".to_owned());
            let last = waits.thread.take();
            match thread.spawn(move || look_after(&own, last)) {
                Ok(thread) => (waits.thread, waits.is_looked_after) = (Some(thread), true),
                // Nobody can be looked after: they are told by what they wait on being gone.
                Err(_) => waits.next.clear(),
            }
        }
        receiver
    }

    /// Waits until the thread has ended; nobody waits by now.
    pub(super) fn rest(&self) {
        let thread = lock(&self.waits).thread.take();
        end(thread);
    }
}

fn end(thread: Option<JoinHandle<()>>) {
    // It holds nothing that a panic could leave in a bad state.
    thread.map(JoinHandle::join);
}

/// What the thread does, after the last one, which is about to end.
fn look_after(waits: &Mutex<Waits>, last: Option<JoinHandle<()>>) {
    end(last);
    loop {
        let mut now = lock(waits);
        let these = mem::take(&mut now.next);
        now.is_looked_after = !these.is_empty();
        drop(now);
        if these.is_empty() {
            return;
        }
        if sys::rcu_grace_period().is_err() {
            // They are gone without a word.
            lock(waits).is_untold = true;
            continue;
        }
        for wait in these {
            // Who waited may be gone.
            let _ = wait.send(());
        }
    }
}

fn lock(waits: &Mutex<Waits>) -> MutexGuard<'_, Waits> {
    waits.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_wait_are_told_and_the_thread_ends() {
        let grace = Grace::default();
        for _ in 0..3 {
            let waits: Vec<_> = (0..50).map(|_| grace.ask()).collect();
            let told: Vec<_> = waits.into_iter().map(|wait| wait.blocking_recv().is_ok()).collect();
            assert_eq!(told, [sys::rcu_grace_period().is_ok(); 50]);
            grace.rest();
            assert!(!lock(&grace.waits).is_looked_after);
        }
    }
}
