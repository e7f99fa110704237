//! The splice datapath: two TCP connections are joined at packet level, by a program where packets
//! arrive.
//!
//! The windows, acknowledgements and ends of the two peers are then each other's, and no byte is
//! copied or queued here. Invariant: a connection is joined at a moment when user space holds no
//! byte of it, or is left to the next datapath as it was.

mod handover;
mod kernel;
mod numbers;

use std::{sync::Arc, time::Duration};

pub(crate) use handover::carry;
pub(crate) use kernel::Kernel;

use super::object::Refusal;

/// Loads the program for so many connections at a time.
pub(crate) fn start(connections: usize) -> Result<(Arc<Kernel>, Duration), Refusal> {
    let begun = std::time::Instant::now();
    let kernel = Arc::new(Kernel::load(connections)?);
    Ok((kernel, begun.elapsed()))
}
