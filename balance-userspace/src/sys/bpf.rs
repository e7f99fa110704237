//! What the BPF datapaths ask the kernel beside the calls of aya.
//!
//! Invariant: the functions change no state of the kernel.

use std::io;

use super::raw;

/// The id of the BPF program that sees the packets of an interface first on ingress, if any (from
/// Linux 6.6 on). Needs CAP_NET_ADMIN.
pub(crate) fn first_ingress_program(interface: u32) -> io::Result<Option<u32>> {
    let (count, first) = raw::query_tcx_ingress(interface)?;
    Ok((count > 0).then_some(first))
}

/// Waits for an RCU grace period: until every processor has left the BPF program that it was
/// running (kernel/sched/membarrier.c).
///
/// On a single processor the call returns at once, because no program can be running then.
///
/// # Errors
/// The kernel refuses the call when it keeps processors free of timer interrupts (nohz_full).
pub(crate) fn rcu_grace_period() -> io::Result<()> {
    raw::membarrier_global()
}
