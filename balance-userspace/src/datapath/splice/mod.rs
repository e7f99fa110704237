//! The splice datapath: a BPF program on tc ingress joins two TCP connections at packet level.
//!
//! TCP splicing, not splice(2): the peers exchange windows, acknowledgements and FINs with each
//! other, and no byte is copied or queued here.
//!
//! Invariant: a connection is joined at a moment when user space holds no byte of it, or is left to
//! the next datapath unchanged.

mod attach;
mod carry;
mod challenge;
mod ineligible;
mod join;
mod kernel;
mod legacy_tc;
mod mss;
mod rcu;
pub(crate) mod routes;
mod seq_state;
mod slot;
mod teardown;
#[cfg(test)]
mod timing;
mod tuple;
mod words;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use carry::carry;
pub(crate) use kernel::{Figures, Kernel};
pub(crate) use mss::{for_backend, for_clients};
use tokio::select;

use super::{
    offload::{object::LoadError, selftest},
    pair::Pair,
    relay::buffers::BufferPool,
};
use crate::io::{ring, stream::SocketOptions};

/// Loads the program for at most `connections` at a time, and runs the self-test. Returns the time
/// that the test took.
///
/// # Errors
/// When this kernel or this process cannot run the program.
pub(crate) fn start(connections: usize, debug: bool) -> Result<(Arc<Kernel>, Duration), LoadError> {
    // Before Linux 5.19, only a shutdown of the socket ended an operation that waits in a ring.
    if !ring::can_cancel() {
        return Err(LoadError::Unsupported("needs Linux 5.19 or later".to_owned()));
    }
    let kernel = Arc::new(Kernel::load(connections, debug)?);
    let begun = Instant::now();
    let carry = async |pair: &Pair, pool: &BufferPool| {
        let carry = async {
            match carry(&kernel, pair, pool).await {
                Some(report) => report,
                None => pending().await,
            }
        };
        select! {
            report = carry => report,
            never = kernel.handle_events() => match never {},
        }
    };
    let options = SocketOptions::probe().map_err(LoadError::from)?;
    let passed = selftest::run(options, carry);
    kernel.clear();
    passed.map_err(|e| LoadError::Unsupported(format!("self-test failed: {e}")))?;
    Ok((kernel, begun.elapsed()))
}
