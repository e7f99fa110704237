//! The library of the `balance` program. The executable only parses the command line, calls the
//! library and exits, so tests and other front ends can use the same parts.
//!
//! ARCHITECTURE.md follows one connection through these modules.
//!
//! Invariant: no module outside `datapath` depends on one particular datapath.

pub mod cli;
pub mod control;
pub mod error;
pub mod instance;
pub mod io;
pub mod logging;
pub mod notify;
pub mod process;
pub mod selection;
pub mod service;
pub mod sys;
#[cfg(any(test, fuzzing))]
pub mod untrusted_input;

mod datapath;
mod throttle;
