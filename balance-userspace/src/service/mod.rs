//! All instances of a configuration file as one service: the verbs, and the supervisor that they
//! act on.
//!
//! Invariant: a verb finds what runs through control sockets and locks, never by a process's name.

pub mod conf;
pub mod spawn_config;

mod backoff;
mod check;
mod event;
mod instance_rpc;
mod manager;
mod member;
pub(crate) mod notify_socket;
mod output;
pub(crate) mod plan;
mod process;
mod reload;
mod running;
mod start;
mod status;
mod stop;
mod supervisor;
mod verbs;

pub use verbs::run;
