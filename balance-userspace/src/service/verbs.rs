//! Dispatch of the verbs, and the verbs `restart` and `reload`.
//!
//! Invariant: `restart` stops nothing if the file has a mistake.

use super::{
    check, check_verb,
    output::{NOT_RUNNING, WRONG, print, print_error, report},
    running::{RunningSupervisor, is_absence},
    start, status, stop,
};
use crate::{
    cli::{ServiceLocation, Verb},
    control::{
        client::rpc::ClientError,
        protocol::{SupervisorCommand, SupervisorReply},
    },
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
        Verb::Reload { location } => Ok(reload(location)),
        Verb::Status { location, json } => Ok(status::status(location, *json)),
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

fn reload(location: &ServiceLocation) -> u8 {
    let asked = RunningSupervisor::find(location)
        .and_then(|mut running| running.ask(SupervisorCommand::Reload));
    match asked {
        Ok(SupervisorReply::Reloaded { changed, differences }) => {
            changed.iter().chain(&differences).for_each(|line| print(line));
            let nothing = if changed.is_empty() { ": nothing has changed" } else { "" };
            print(&format!("balance is reloaded{nothing}"));
            0
        }
        Ok(SupervisorReply::PartlyReloaded { changed, differences, failed, code }) => {
            changed.iter().chain(&differences).for_each(|line| print(line));
            failed.iter().for_each(|line| print_error(line));
            let how = if changed.is_empty() { "not reloaded" } else { "reloaded in part" };
            print_error(&format!("balance is {how}"));
            code
        }
        Ok(SupervisorReply::InvalidFile(wrong)) => {
            wrong.iter().for_each(|wrong| print_error(wrong));
            print_error("balance is not reloaded");
            WRONG
        }
        Ok(_) => report(&ClientError::Unreadable),
        Err(error) if is_absence(&error) => {
            print("balance is not running");
            NOT_RUNNING
        }
        Err(error) => report(&error),
    }
}
