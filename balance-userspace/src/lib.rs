//! The library behind the `balance` program: everything except parsing the command line of
//! the process and ending it, so that tests and later front ends can use the same parts.
//!
//! ARCHITECTURE.md follows one connection through these modules.

pub mod cli;
pub mod control;
pub mod error;
pub mod instance;
pub mod io;
pub mod logging;
pub mod notify;
pub mod selection;
pub mod service;
pub mod sys;
#[cfg(any(test, fuzzing))]
pub mod untrusted_input;

mod datapath;
mod throttle;
