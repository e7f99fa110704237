//! The slots of a connection in the maps of the sockmap datapath.
//!
//! Invariant: slots are reused only after both sockets of their connection are closed. Each stream
//! holds the lease, and drops it after its descriptor.

use std::{fmt, sync::Arc};

use super::kernel::Kernel;
use crate::datapath::{
    offload::slots::Wakers,
    side::{PerSide, Side},
};

/// The two slots of one connection, until both its sockets are closed.
pub(crate) struct SlotLease {
    kernel: Arc<Kernel>,
    number: u32,
    pub(super) wakers: Wakers,
    pub(super) cookies: PerSide<u64>,
}

impl SlotLease {
    /// Takes two slots; `None` if all are taken.
    pub(super) fn new(kernel: &Arc<Kernel>, cookies: PerSide<u64>) -> Option<Self> {
        let (number, wakers) = kernel.slots.take()?;
        Some(Self { kernel: Arc::clone(kernel), number, wakers, cookies })
    }

    /// The slot of the direction that comes from a side.
    pub(super) fn slot(&self, from: Side) -> u32 {
        self.number * 2 + from as u32
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        self.kernel.remove_cookies(self);
        self.kernel.slots.give_back(self.number);
    }
}

impl fmt::Debug for SlotLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotLease({})", self.number)
    }
}
