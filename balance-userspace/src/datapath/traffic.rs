//! Bytes that a connection has moved so far, and whether one side has said all, for readers on
//! other threads.
//!
//! Invariant: right at any moment, also while the kernel moves the bytes; only ever grows.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::sockmap::Kernel;

/// Counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From client to backend, moved by user space.
    pub(crate) sent: AtomicU64,
    /// From backend to client, moved by user space.
    pub(crate) rcvd: AtomicU64,
    /// Both ways, moved by the kernel; known when it has ended.
    offloaded: AtomicU64,
    /// One direction has ended, the other goes on.
    half_closed: AtomicBool,
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

    /// Bytes of an ended connection that the kernel moved, both ways.
    pub(crate) fn offloaded(&self) -> u64 {
        self.offloaded.load(Relaxed)
    }

    /// Notes that one direction has ended.
    pub(super) fn end_one_way(&self) {
        self.half_closed.store(true, Relaxed);
    }

    /// Whether only one direction is left.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
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
        self.offloaded.fetch_add(sent + rcvd, Relaxed);
        sent + rcvd
    }
}
