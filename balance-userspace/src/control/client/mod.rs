//! The client side of control: `-c` and `-i`.
//!
//! Invariant: it only asks and renders; every effect of a command is made by the instance.

pub mod command;
pub mod command_table;
pub(crate) mod connection;
#[cfg(test)]
pub(super) mod fake;
mod once;
pub mod render;
pub mod rpc;
pub(crate) mod script;
mod shell;
pub(crate) mod table;
mod terminal;

pub use self::{once::once, shell::shell};
