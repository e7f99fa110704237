//! Control: the socket of a running balance, and the commands `-c` and `-i` that talk to it.
//!
//! Invariant: every effect of a command on the table is made in [`answers`] under the table's lock, at once and
//! whole; the client side only asks and renders.

mod answers;
pub mod client;
pub mod command;
mod configure;
pub mod help;
pub mod instance;
pub mod protocol;
pub mod render;
pub mod rundir;

#[cfg(test)]
mod fake;
pub(crate) mod line;
pub(crate) mod master;
mod once;
pub(crate) mod seats;
pub(crate) mod server;
mod shell;
pub(crate) mod table;
mod terminal;

pub use self::{once::once, shell::shell};
