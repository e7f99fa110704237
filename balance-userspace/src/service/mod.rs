//! All instances of a configuration file as one service: the verbs, and the supervisor that they
//! act on.
//!
//! Invariant: a verb finds what runs through control sockets and locks, never by a process's name.

pub mod conf;

use crate::{cli::Verb, error::StartError};

/// Carries out a verb, and returns the exit code.
///
/// # Errors
/// What keeps it from being carried out at all.
pub fn run(verb: &Verb) -> Result<u8, StartError> {
    let _ = (verb, conf::read("", &|_| None));
    Err(StartError::Usage("not here yet".to_owned()))
}
