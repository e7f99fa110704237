//! The seam between connections and what moves their bytes.
//!
//! A connected pair goes to a datapath, which owns both ends until both directions have ended, and
//! reports the outcome.
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

/// The most descriptors that a datapath opens while it serves, beside those of connections: one for
/// each network interface that a BPF program is attached to later.
pub(crate) const LATE_DESCRIPTORS: usize = 8;
