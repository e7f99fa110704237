//! What the kernel datapaths share: BPF objects, mapped arrays, slots, the program's log, the
//! self-test.
//!
//! Invariant: apart from the list of objects in [`object`], no file here knows which datapath uses
//! it.

pub(crate) mod mapped;
pub(crate) mod object;
pub(crate) mod program_log;
pub(crate) mod selftest;
pub(crate) mod slots;
