//! One instance: a listener and its groups of channels, served by the workers of its process until
//! a signal or a command ends it.
//!
//! Invariant: the workers share one [`Context`](context::Context) for each instance, and the
//! [`Shared`](shared::Shared) state of the process, and nothing else.

pub(crate) mod context;
pub(crate) mod dns_refresh;
pub(crate) mod idle;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod shared;
pub(crate) mod shortage;
pub mod start;
pub(crate) mod table;
pub(crate) mod timer;
pub(crate) mod totals;
