//! The words of one splice in the memory that is shared with the program.
//!
//! Invariant: what both sides change are single words, changed atomically.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use balance_ebpf::splice::Splice;

use crate::datapath::offload::mapped::Mapped;

/// A word of a splice, by its place in that. No reference is made to more than this word, as the
/// program writes to the others.
macro_rules! word {
    ($words:expr, $kind:ident, $($place:tt)+) => {
        // SAFETY: an aligned word within the mapping, which outlives the `Words`; whoever else changes
        // it does so as a whole. An index beyond the sides panics.
        unsafe { $kind::from_ptr(&raw mut (*$words.splice.as_ptr()).$($place)+) }
    };
}

pub(super) use word;

/// The words of one splice in shared memory.
pub(super) struct Words<'a> {
    pub(super) splice: NonNull<Splice>,
    _array: &'a Mapped<Splice>,
}

impl<'a> Words<'a> {
    pub(super) fn of(array: &'a Mapped<Splice>, number: u32) -> Self {
        Self { splice: array.get(number), _array: array }
    }

    /// All of them at this moment, each by itself.
    pub(super) fn read(&self) -> Splice {
        // SAFETY: within the mapping; plain integers, of which any are a value.
        unsafe { self.splice.read_volatile() }
    }

    pub(super) fn phase(&self) -> &'a AtomicU32 {
        word!(self, AtomicU32, phase)
    }

    pub(super) fn ending(&self) -> &'a AtomicU64 {
        word!(self, AtomicU64, ending)
    }

    /// Bytes, and perhaps an end, of a side's peer that the other has acknowledged since counting began,
    /// and the number behind them.
    pub(super) fn acknowledged(&self, side: usize) -> (u64, u32) {
        let snd_una = word!(self, AtomicU64, ways[side].side.sent.snd_una).load(SeqCst);
        let origin = word!(self, AtomicU64, ways[side].origin).load(SeqCst);
        (snd_una.saturating_sub(origin), snd_una as u32)
    }

    /// Behind a side's end, if there was one.
    pub(super) fn fin(&self, side: usize) -> &'a AtomicU32 {
        word!(self, AtomicU32, ways[side].fin)
    }

    /// The interface through which a side's packets leave to the other peer.
    pub(super) fn out(&self, side: usize) -> &'a AtomicU32 {
        word!(self, AtomicU32, ways[side].out)
    }
}
