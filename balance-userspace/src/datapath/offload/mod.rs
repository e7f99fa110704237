//! What the datapaths in the kernel have in common: loaded objects, shared memory, slots, the self-test.
//!
//! Invariant: nothing here knows which datapath uses it.

pub(crate) mod mapped;
pub(crate) mod object;
pub(crate) mod program_log;
pub(crate) mod selftest;
pub(crate) mod slots;
