//! Control: the socket of a running balance, and the commands `-c` and `-i` that talk to it.
//!
//! Invariant: every effect of a command on the table is made in [`handler`](server::handler) under the table's lock, at once and
//! whole; the client side only asks and renders.

pub mod client;
pub mod instance_files;
pub mod protocol;
pub mod run_dir;
pub(crate) mod server;
