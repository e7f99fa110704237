//! The array of flows that the BPF program and user space share, mapped into this process.
//!
//! Invariant: the only place that touches their memory. The state word is only ever
//! changed by compare-exchange; the other fields follow the ownership that `Flow` describes.

use std::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use balance_ebpf::{Backlog, Flow, KERNEL, USER, fault, handover::UserWords, passed};

use crate::datapath::mapped::Mapped;

/// All flows, by slot.
#[derive(Debug)]
pub(super) struct Flows(pub(super) Mapped<Flow>);

impl Flows {
    /// The flow in a slot.
    pub(super) fn get(&self, slot: u32) -> FlowRef<'_> {
        FlowRef { flow: self.0.get(slot), _array: PhantomData }
    }
}

/// One flow in shared memory.
#[derive(Clone, Copy)]
pub(super) struct FlowRef<'a> {
    flow: NonNull<Flow>,
    _array: PhantomData<&'a Flows>,
}

impl FlowRef<'_> {
    fn state_word(&self) -> &AtomicU64 {
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

    /// Says of a source that is not in the map that no packet will come from it.
    pub(super) fn retire(&self) {
        self.exchange(USER, KERNEL);
    }

    /// Whether the kernel moves the bytes.
    pub(super) fn is_in_kernel(&self) -> bool {
        passed(self.state()).is_none()
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
}

impl UserWords for FlowRef<'_> {
    fn state(&self) -> u64 {
        self.state_word().load(SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> bool {
        self.state_word().compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }

    fn redirected(&self) -> u64 {
        self.redirected_word().load(SeqCst)
    }

    fn backlog(&self, work: impl FnOnce(&mut Backlog)) {
        // SAFETY: within the mapping; in USER the program leaves these fields alone.
        unsafe {
            let backlog: *mut Backlog = &raw mut (*self.flow.as_ptr()).backlog;
            let mut copy = backlog.read_volatile();
            work(&mut copy);
            backlog.write_volatile(copy);
        }
    }
}
