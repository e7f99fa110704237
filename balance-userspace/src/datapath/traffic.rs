//! Bytes that a connection has moved so far, and whether one side has said all, for readers on
//! other threads.
//!
//! Invariant: right at any moment, also while the kernel moves the bytes; only ever grows.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::name::DatapathName;

/// The kernel's side of a datapath that moves bytes there.
pub(super) trait OffloadCounters: std::fmt::Debug + Send + Sync {
    /// The datapath's name.
    fn name(&self) -> DatapathName;

    /// Bytes that it has moved one way.
    fn moved(&self, way: u32) -> u64;

    /// Whether it moves what comes that way now.
    fn is_moving(&self, way: u32) -> bool;
}

/// Who counts for a connection, and where.
type Followed = (Arc<dyn OffloadCounters>, [u32; 2]);

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
    /// The kernel's counters beside them: from client to backend, and back.
    kernel: Mutex<Option<Followed>>,
}

impl Traffic {
    /// Bytes from client to backend, and back.
    pub(crate) fn read(&self) -> (u64, u64) {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let [sent, rcvd] = match &*kernel {
            Some((kernel, ways)) => ways.map(|way| kernel.moved(way)),
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

    /// What moves the bytes.
    pub(crate) fn datapath(&self) -> DatapathName {
        let followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        followed.as_ref().map_or(DatapathName::Relay, |(kernel, _)| kernel.name())
    }

    /// Whether the kernel moves the bytes of both directions at this moment.
    pub(super) fn is_moved_by_kernel(&self) -> bool {
        let followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        followed
            .as_ref()
            .is_some_and(|(kernel, ways)| ways.iter().all(|&way| kernel.is_moving(way)))
    }

    /// From now on these count beside us, from 0.
    pub(super) fn follow(&self, kernel: &Arc<impl OffloadCounters + 'static>, ways: [u32; 2]) {
        let mut followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        *followed = Some((Arc::clone(kernel) as Arc<dyn OffloadCounters>, ways));
    }

    /// Takes over what they have counted, before they count for others; says how much.
    pub(crate) fn settle(&self) -> u64 {
        let mut followed = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((kernel, ways)) = followed.take() else { return 0 };
        let [sent, rcvd] = ways.map(|way| kernel.moved(way));
        self.sent.fetch_add(sent, Relaxed);
        self.rcvd.fetch_add(rcvd, Relaxed);
        self.offloaded.fetch_add(sent + rcvd, Relaxed);
        sent + rcvd
    }
}
