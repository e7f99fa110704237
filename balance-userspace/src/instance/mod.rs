//! One instance: a listener and its groups of channels, served by workers until a signal or a
//! command ends it.
//!
//! Invariant: the workers share one [`Context`](context::Context) and nothing else.

pub(crate) mod connection_limits;
pub(crate) mod context;
pub(crate) mod dns_refresh;
pub(crate) mod idle;
pub(crate) mod lifecycle;
pub mod server;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod shortage;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod timer;
pub(crate) mod totals;
pub(crate) mod worker;
