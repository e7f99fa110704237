//! The array of flows that the BPF program and user space share, mapped into this process.
//!
//! Invariant: the only place that touches their memory. The state word is only ever
//! changed by compare-exchange; the other fields follow the ownership that `Flow` describes.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use balance_ebpf::{Backlog, Flow, KERNEL, USER, fault, passed};

use crate::datapath::mapped::Mapped;

/// All flows, by slot.
#[derive(Debug)]
pub(super) struct Flows(pub(super) Mapped<Flow>);

impl Flows {
    /// The flow in a slot.
    pub(super) fn get(&self, slot: u32) -> FlowRef<'_> {
        FlowRef { flow: self.0.get(slot), _array: self }
    }
}

/// One flow in shared memory.
#[derive(Clone, Copy)]
pub(super) struct FlowRef<'a> {
    flow: NonNull<Flow>,
    _array: &'a Flows,
}

impl FlowRef<'_> {
    fn state(&self) -> &AtomicU64 {
        // SAFETY: an aligned word in the mapping; the BPF program changes it atomically too.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.flow.as_ptr()).state) }
    }

    fn redirected_word(&self) -> &AtomicU64 {
        // SAFETY: an aligned word in the mapping, written whole by the BPF program.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.flow.as_ptr()).redirected) }
    }

    /// Prepares a slot for a new connection: in USER, nothing moved. The program must not know
    /// the slot yet.
    pub(super) fn reset(&self) {
        // SAFETY: nobody else uses the slot, as the caller promises.
        unsafe { self.flow.write_volatile(Flow { state: USER, ..Flow::default() }) };
    }

    /// Bytes passed since user space has the flow; `None` while the kernel has it.
    pub(super) fn passed(&self) -> Option<u64> {
        passed(self.state().load(SeqCst))
    }

    /// Bytes redirected in all.
    ///
    /// Read after a byte was seen to be passed, it counts everything that came before it: the
    /// program adds to it before it next changes the state.
    pub(super) fn redirected(&self) -> u64 {
        self.redirected_word().load(SeqCst)
    }

    /// What the program found to be wrong with the flow, if anything; nothing that came after
    /// has been passed or redirected.
    pub(super) fn fault(&self) -> Option<&'static str> {
        // SAFETY: an aligned word in the mapping, written whole by the BPF program.
        let fault = unsafe { AtomicU32::from_ptr(&raw mut (*self.flow.as_ptr()).fault) };
        match fault.load(SeqCst) {
            fault::NONE => None,
            fault::GAP => Some("bytes are missing"),
            fault::TRIM => Some("repeated bytes could not be cut off"),
            _ => Some("packets are not as this kernel should have them"),
        }
    }

    /// Whether every byte that was passed is among the `relayed`; true while the kernel has it.
    pub(super) fn has_passed_no_more_than(&self, relayed: u64) -> bool {
        self.passed().unwrap_or(relayed) == relayed
    }

    /// Hands the flow to the kernel, with everything written: `base` as in [`Backlog::restart`].
    /// False if a byte was passed that is not among the `relayed`, or the kernel has it already.
    pub(super) fn promote(&self, relayed: u64, base: u64) -> bool {
        if self.passed() != Some(relayed) {
            return false;
        }
        // SAFETY: in USER the program leaves these fields alone.
        unsafe {
            let backlog: *mut Backlog = &raw mut (*self.flow.as_ptr()).backlog;
            let mut fresh = backlog.read_volatile();
            fresh.restart(base, self.redirected());
            backlog.write_volatile(fresh);
        }
        self.retire(relayed)
    }

    /// Says that no packet will come any more, so that the other direction need not wait for
    /// this one to go back to the kernel.
    pub(super) fn retire(&self, relayed: u64) -> bool {
        self.state().compare_exchange(USER | relayed, KERNEL, SeqCst, SeqCst).is_ok()
    }
}
