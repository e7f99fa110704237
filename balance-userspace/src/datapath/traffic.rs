//! The byte counters of a connection, and whether the connection is half-closed, for readers on any
//! thread.
//!
//! Invariant: the counters are exact at any moment, also while the kernel moves the bytes, and only
//! grow.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{name::DatapathName, side::PerSide};

/// The counters of a kernel datapath. A slot stands for one direction of one connection.
pub(super) trait OffloadCounters: std::fmt::Debug + Send + Sync {
    /// The datapath's name.
    fn name(&self) -> DatapathName;

    /// Bytes that the kernel has moved in a slot.
    fn bytes(&self, slot: u32) -> u64;

    /// Whether bytes that arrive now in a slot are moved by the kernel.
    fn is_moving(&self, slot: u32) -> bool;
}

/// The kernel's counters of a connection: the datapath, and the slot of each direction by the side
/// that the direction comes from.
type Offload = (Arc<dyn OffloadCounters>, PerSide<u32>);

/// The counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes from client to backend that user space has moved.
    pub(crate) sent: AtomicU64,
    /// Bytes from backend to client that user space has moved.
    pub(crate) rcvd: AtomicU64,
    /// Bytes of both directions that the kernel has moved; set by [`Traffic::end_offload`].
    offloaded: AtomicU64,
    /// One direction has ended, and the other has not.
    half_closed: AtomicBool,
    /// The kernel's counters, to be added to `sent` and `rcvd`.
    offload: Mutex<Option<Offload>>,
}

impl Traffic {
    /// All bytes from client to backend, and from backend to client.
    pub(crate) fn read(&self) -> (u64, u64) {
        let offload = self.offload();
        let [sent, rcvd] = match &*offload {
            Some((kernel, slots)) => slots.map(|slot| kernel.bytes(slot)).into_array(),
            None => [0, 0],
        };
        (sent + self.sent.load(Relaxed), rcvd + self.rcvd.load(Relaxed))
    }

    /// Bytes of both directions that the kernel moved, once the connection has ended.
    pub(crate) fn offloaded(&self) -> u64 {
        self.offloaded.load(Relaxed)
    }

    /// Records that one direction has ended.
    pub(super) fn set_half_closed(&self) {
        self.half_closed.store(true, Relaxed);
    }

    /// Whether a direction has ended.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
    }

    /// The datapath that moves the bytes now.
    pub(crate) fn datapath(&self) -> DatapathName {
        self.offload().as_ref().map_or(DatapathName::Relay, |(kernel, _)| kernel.name())
    }

    /// Whether the kernel moves the bytes of both directions now.
    pub(super) fn is_moved_by_kernel(&self) -> bool {
        let offload = self.offload();
        offload
            .as_ref()
            .is_some_and(|(kernel, slots)| slots.iter().all(|(_, &slot)| kernel.is_moving(slot)))
    }

    /// Adds the counters of these slots, which start at 0.
    pub(super) fn start_offload(
        &self,
        kernel: &Arc<impl OffloadCounters + 'static>,
        slots: PerSide<u32>,
    ) {
        *self.offload() = Some((Arc::clone(kernel) as Arc<dyn OffloadCounters>, slots));
    }

    /// Takes over the values of the kernel's counters. To be called before the slots are reused.
    pub(super) fn end_offload(&self) {
        let mut offload = self.offload();
        let Some((kernel, slots)) = offload.take() else { return };
        let [sent, rcvd] = slots.map(|slot| kernel.bytes(slot)).into_array();
        self.sent.fetch_add(sent, Relaxed);
        self.rcvd.fetch_add(rcvd, Relaxed);
        self.offloaded.fetch_add(sent + rcvd, Relaxed);
    }

    fn offload(&self) -> MutexGuard<'_, Option<Offload>> {
        self.offload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
