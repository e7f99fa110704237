//! The types and decisions that the BPF programs and user space share, and nothing that needs the
//! kernel.
//!
//! Everything outside `program` is pure. The code compiles on the host as well, and the tests run
//! there. The programs in `program/` only read the inputs and act on the results.
//!
//! Invariant: a type in shared memory is `repr(C)` and a multiple of eight bytes, because the
//! kernel spaces the values of a mapped array by eight bytes. A test checks each layout.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(all(feature = "program", target_arch = "bpf"))]
mod program;
mod shared;
pub mod sockmap;
pub mod splice;

pub use shared::{DEFAULT_SLOTS, EVENT_BYTES, PerSide, Shared, Side, Word, WordValue, names};
