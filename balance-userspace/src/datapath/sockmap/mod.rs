//! The sockmap datapath: a BPF program redirects the bytes of a connection inside the kernel.
//!
//! Either the kernel or user space moves the bytes of a direction, and the direction changes hands
//! as often as needed (see `balance_ebpf::Flow`). User space starts, and hands the direction over
//! when both sockets are in the maps. The program hands it back when the target falls behind, so
//! that TCP's own backpressure reaches the sender.
//!
//! Invariant: a flow has at most [`kernel::LIMIT`] outstanding in the kernel, in memory of the send
//! buffer and of packets on their way to it.

pub(crate) mod btf;
mod flows;
mod kernel;
mod lease;
mod offload;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aya::util::KernelVersion;
pub(crate) use kernel::Kernel;
pub(crate) use offload::carry;

use tokio::select;

use super::{
    offload::{object::LoadError, selftest},
    pair::Pair,
    relay::buffers::BufferPool,
};
use crate::io::stream::SocketOptions;

/// Loads the program for `connections` connections at the same time and runs the self-test. Returns
/// the time that the self-test took.
///
/// # Errors
/// When the kernel cannot run the datapath, or the self-test fails.
pub(crate) fn start(connections: usize, debug: bool) -> Result<(Arc<Kernel>, Duration), LoadError> {
    // The program calls bpf_loop.
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 17, 0)) {
        return Err(LoadError::Unsupported("needs Linux 5.17 or later".to_owned()));
    }
    let kernel = Arc::new(Kernel::load(connections, debug)?);
    let begun = Instant::now();
    let options = SocketOptions::probe().map_err(LoadError::from)?;
    let carry = async |pair: &Pair, pool: &BufferPool| {
        select! {
            report = carry(&kernel, pair, pool) => report,
            never = kernel.handle_events() => match never {},
        }
    };
    selftest::run(options, carry)
        .map_err(|e| LoadError::Unsupported(format!("self-test failed: {e}")))?;
    Ok((kernel, begun.elapsed()))
}
