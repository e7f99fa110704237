//! The client of the control socket: `-c` and `-i`.
//!
//! Invariant: the client sends commands and renders replies. Only the instance makes changes.

pub mod command;
pub mod command_table;
pub(crate) mod connection;
#[cfg(test)]
pub(super) mod fake;
mod json;
mod one_shot;
mod permission;
pub mod render;
pub mod rpc;
pub(crate) mod script;
mod shell;
pub(crate) mod table;
mod target;
mod terminal;
pub(crate) mod unfinished;

pub use self::{one_shot::run_commands, shell::shell, target::InstanceTarget};
