//! Control of running processes: the control socket, and the commands of `-c` and `-i`.
//!
//! Invariant: a command changes the table in the handler in [`server`] only, whole and under the
//! table's lock. The client sends commands and renders replies.

pub mod client;
pub mod instance_files;
pub mod protocol;
pub mod run_dir;
pub(crate) mod server;
