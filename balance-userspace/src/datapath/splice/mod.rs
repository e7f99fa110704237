//! The splice datapath: two TCP connections are joined at packet level, by a program where packets
//! arrive.
//!
//! The windows, acknowledgements and ends of the two peers are then each other's, and no byte is
//! copied or queued here. Invariant: a connection is joined at a moment when user space holds no
//! byte of it, or is left to the next datapath as it was.

mod attach;
mod carry;
mod doubt;
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

/// Loads the program for so many connections at a time, and proves that it works here.
pub(crate) fn start(connections: usize, debug: bool) -> Result<(Arc<Kernel>, Duration), LoadError> {
    // Before, what waits in a ring for a socket could only be ended by shutting that down.
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
