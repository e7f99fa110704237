//! Dispatch of the verbs, and the verb `restart`.
//!
//! Invariant: `restart` stops nothing if the file has a mistake.

use super::{
    check, check_verb, health,
    output::{WRONG, print, print_error, report},
    running::{RunningSupervisor, is_absence},
    start, status, stop, upgrade_verb,
};
use crate::{
    cli::{ServiceLocation, Verb},
    error::StartError,
};

/// Runs a verb, and returns the exit code.
///
/// # Errors
/// [`StartError`] when the verb cannot begin.
pub fn run(verb: &Verb) -> Result<u8, StartError> {
    match verb {
        Verb::Start { location, foreground, log_format } => {
            start::start(location, *foreground, *log_format)
        }
        Verb::Stop { location } => Ok(stop::stop(location)),
        Verb::Restart { location } => restart(location),
        Verb::Reload { location } => Ok(upgrade_verb::reload(location)),
        Verb::Upgrade { location } => Ok(upgrade_verb::upgrade(location)),
        Verb::Status { location, json } => Ok(status::status(location, *json)),
        Verb::Health(options) => Ok(health::health(options)),
        Verb::Check(options) => check_verb::check(options),
    }
}

fn restart(location: &ServiceLocation) -> Result<u8, StartError> {
    // Check before the stop: a broken file would keep the service down.
    let conf = check::read(&location.config)?;
    let wrong = check::all(&conf, true);
    if !wrong.is_empty() {
        wrong.iter().for_each(|wrong| print_error(&wrong.to_string()));
        print("balance is not restarted");
        return Ok(WRONG);
    }
    match RunningSupervisor::find(location) {
        Ok(mut running) => match running.table() {
            Ok(table) if table.foreground => Ok(stop::restart_in_place(location, running, &table)),
            Ok(_) => match stop::stop(location) {
                0 => start::in_background(location),
                code => Ok(code),
            },
            Err(error) => Ok(report(&error)),
        },
        Err(error) if is_absence(&error) => start::in_background(location),
        Err(error) => Ok(report(&error)),
    }
}
