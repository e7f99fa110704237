//! Bytes that a connection has moved so far, for readers on other threads.
//!
//! Invariant: right at any moment, also while the kernel moves the bytes; only ever grows.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::sockmap::Kernel;

/// Counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From client to backend, moved by user space.
    pub(crate) sent: AtomicU64,
    /// From backend to client, moved by user space.
    pub(crate) rcvd: AtomicU64,
    /// The kernel's counters beside them: slots from client to backend, and back.
    kernel: Mutex<Option<(Arc<Kernel>, [u32; 2])>>,
}

impl Traffic {
    /// Bytes from client to backend, and back.
    pub(crate) fn read(&self) -> (u64, u64) {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let [sent, rcvd] = match &*kernel {
            Some((kernel, slots)) => slots.map(|slot| kernel.redirected(slot)),
            None => [0, 0],
        };
        (sent + self.sent.load(Relaxed), rcvd + self.rcvd.load(Relaxed))
    }

    /// Whether the kernel counts beside us.
    pub(crate) fn in_kernel(&self) -> bool {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the kernel moves the bytes of both directions at this moment.
    pub(super) fn is_moved_by_kernel(&self) -> bool {
        let followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        followed
            .as_ref()
            .is_some_and(|(kernel, slots)| slots.iter().all(|&slot| kernel.is_with_kernel(slot)))
    }

    /// From now on these slots count beside us, from 0.
    pub(crate) fn follow(&self, kernel: &Arc<Kernel>, slots: [u32; 2]) {
        let mut followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        *followed = Some((Arc::clone(kernel), slots));
    }

    /// Takes over what the slots have counted, before they are used anew; says how much.
    pub(crate) fn settle(&self) -> u64 {
        let mut followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((kernel, slots)) = followed.take() else { return 0 };
        let [sent, rcvd] = slots.map(|slot| kernel.redirected(slot));
        self.sent.fetch_add(sent, Relaxed);
        self.rcvd.fetch_add(rcvd, Relaxed);
        sent + rcvd
    }
}
