//! The two sides of a pair.
//!
//! Invariant: the numbers of the sides are those that the BPF programs use.

pub(crate) use balance_ebpf::{PerSide, Side};
