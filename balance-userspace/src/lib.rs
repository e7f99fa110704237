//! The library behind the `balance` program: everything except parsing the command line of
//! the process and ending it, so that tests and later front ends can use the same parts.
//!
//! ARCHITECTURE.md follows one connection through these modules.

pub mod args;
pub mod background;
pub mod cli;
pub mod complete;
pub mod control;
pub mod datapath;
pub mod error;
pub mod handed;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod logging;
pub mod notify;
pub mod operand;
pub mod resolve;
pub mod selection;
pub mod server;
pub mod service;
pub mod signals;

mod accepting;
mod capacity;
mod connect;
mod idle;
mod lifecycle;
mod listener;
mod loops;
mod memory;
mod names;
mod privileges;
mod ready;
mod ring;
mod session;
mod settings;
mod shortage;
mod status;
mod stream;
mod sys;
mod table;
mod throttle;
mod totals;
mod worker;
