//! The instances of a configuration file as one service: the verbs and the supervisor.
//!
//! Invariant: a verb finds a supervisor through its control socket and lock, never through process
//! names.

pub mod conf;
pub mod spawn_config;

mod backoff;
mod check;
mod check_verb;
mod conf_files;
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
mod warnings;

pub use verbs::run;
