//! The seam between connections and what moves their bytes.
//!
//! A connected pair goes to a datapath, which owns both ends until both directions have ended
//! and reports bytes and outcome. Nothing above knows which datapath runs; nothing below knows
//! of channels, groups or commands. A connection that one datapath cannot take goes to the next.

mod abort;
mod choice;
mod direction;
mod dispatch;
mod end;
mod ending;
mod name;
mod offload;
mod pair;
pub(crate) mod relay;
mod side;
pub(crate) mod sockmap;
pub(crate) mod splice;
mod traffic;

pub(crate) use abort::AbortHandle;
pub(crate) use choice::Choice;
pub(crate) use dispatch::Datapath;
pub(crate) use pair::Pair;
pub(crate) use relay::buffers::BufferPool;
pub(crate) use traffic::Traffic;
