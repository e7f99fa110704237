//! The slots of a connection in the sockmaps.
//!
//! Invariant: a slot is used anew only after both sockets that had it are closed: each stream
//! keeps the lease, and drops it after its descriptor.

use std::{fmt, sync::Arc};

use super::kernel::Kernel;
use crate::datapath::offload::slots::Wakers;

/// The slots of one connection, until both its sockets are closed.
pub(crate) struct Lease {
    kernel: Arc<Kernel>,
    number: u32,
    pub(super) wakers: Wakers,
    pub(super) cookies: [u64; 2],
}

impl Lease {
    pub(super) fn new(kernel: &Arc<Kernel>, cookies: [u64; 2]) -> Option<Self> {
        let (number, wakers) = kernel.slots.take()?;
        Some(Self { kernel: Arc::clone(kernel), number, wakers, cookies })
    }

    /// The slot of a direction: 0 from client to backend, 1 back.
    pub(super) fn slot(&self, direction: usize) -> u32 {
        self.number * 2 + direction as u32
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.kernel.forget(self);
        self.kernel.slots.give_back(self.number);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.number)
    }
}
