//! The seam between connections and the datapaths that move their bytes.
//!
//! A connected pair goes to a datapath. The datapath owns both streams until both directions have
//! ended, and then reports the end.
//!
//! Invariants: no module above this one knows which datapath runs. No module below this one knows
//! channels, groups or commands. A connection that one datapath cannot take goes to the next.

mod abort;
mod choice;
mod counter;
mod direction;
mod dispatch;
mod end;
mod name;
mod offload;
mod pair;
#[cfg(any(test, fuzzing))]
pub(crate) mod parsers;
mod relay;
mod reset_evidence;
mod side;
mod sockmap;
mod splice;
mod traffic;

pub(crate) use abort::AbortHandle;
pub(crate) use choice::Choice;
pub(crate) use dispatch::Datapath;
pub(crate) use pair::Pair;
pub(crate) use relay::buffers::BufferPool;
pub(crate) use traffic::Traffic;

/// The number of descriptors to reserve for a datapath: it opens one for each network interface
/// that its BPF program is attached to while the instance serves.
pub(crate) const LATE_DESCRIPTORS: usize = 8;
