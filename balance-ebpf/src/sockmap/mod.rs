//! The sockmap datapath: what the verdict program and user space share about a flow, and how a flow
//! changes hands between them.
//!
//! Invariant: see [`Flow`] for the order of bytes and [`handover`] for the ownership of the words.

mod flow;
pub mod handover;
#[cfg(all(test, not(miri)))]
mod model;
mod offsets;

pub use flow::{Backlog, Fault, Flow, KERNEL, Position, QUANTUM, SKB_OVERHEAD, USER, passed};
pub use offsets::Offsets;
