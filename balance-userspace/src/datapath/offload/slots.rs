//! Slots in the BPF maps: two for each connection, one for each direction.
//!
//! Invariant: a freed slot is reused as late as possible, because the program may still process a
//! packet of the last connection on another processor.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::datapath::side::{PerSide, Side};

/// Wakes the two directions of a connection on an event of the program.
pub(crate) type Wakers = Arc<PerSide<Notify>>;

/// The free slots, and the wakers of the slots in use.
pub(crate) struct Slots {
    inner: Mutex<Inner>,
}

struct Inner {
    /// The free slot pairs, in the order in which they were freed.
    free: VecDeque<u32>,
    wakers: Vec<Option<Wakers>>,
}

impl Slots {
    /// Slots for `connections` connections.
    pub(crate) fn new(connections: u32) -> Self {
        let wakers = vec![None; connections as usize];
        Self { inner: Mutex::new(Inner { free: (0..connections).collect(), wakers }) }
    }

    /// Takes the two slots of a connection; `None` if all are taken.
    pub(crate) fn take(&self) -> Option<(u32, Wakers)> {
        let mut inner = self.lock();
        let number = inner.free.pop_front()?;
        let wakers: Wakers = Arc::default();
        inner.wakers[number as usize] = Some(Arc::clone(&wakers));
        Some((number, wakers))
    }

    /// Frees the two slots of a connection.
    pub(crate) fn give_back(&self, number: u32) {
        let mut inner = self.lock();
        inner.wakers[number as usize] = None;
        inner.free.push_back(number);
    }

    /// Wakes the direction in a slot, if the slot is in use.
    pub(crate) fn wake(&self, slot: u32) {
        let wakers = self.lock().wakers.get(slot as usize / 2).cloned().flatten();
        if let Some(wakers) = wakers {
            wakers[Side::from_bit(slot)].notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_reused_after_all_others() {
        let slots = Slots::new(3);
        assert_eq!(slots.take().unwrap().0, 0);
        slots.give_back(0);
        let order: Vec<u32> = std::iter::from_fn(|| slots.take().map(|t| t.0)).collect();
        assert_eq!(order, [1, 2, 0]);
        assert!(slots.take().is_none());
    }

    #[test]
    fn a_late_event_for_a_freed_slot_is_ignored() {
        let slots = Slots::new(1);
        let (number, _) = slots.take().unwrap();
        slots.give_back(number);
        slots.wake(0);
        slots.wake(99);
    }
}
