//! The instances of a configuration file as one service: the verbs and the supervisor.
//!
//! Invariant: a verb finds a supervisor through its control socket and lock, never through process
//! names.

pub mod conf;

mod backoff;
mod changes;
mod check;
mod check_verb;
mod conf_files;
mod control_socket;
mod event;
mod file_change;
mod generation;
mod health;
mod manager;
mod member;
mod output;
pub(crate) mod plan;
mod preparation;
mod reload;
mod reload_differences;
mod running;
mod start;
mod status;
mod status_row;
mod stop;
mod successor;
mod supervise;
mod supervisor;
mod takeover;
mod unsupervised;
mod upgrade;
mod upgrade_state;
mod upgrade_verb;
mod verbs;
mod warnings;

pub use health::unknown;
pub use upgrade_state::is_continued;
pub use verbs::run;
