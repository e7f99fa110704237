//! Carries out the verbs.

use std::path::Path;

use super::{
    check,
    output::{NOT_RUNNING, WRONG, complain, counted, report, say},
    running::{Running, is_absence},
    start, status, stop,
};
use crate::{
    cli::{Place, Verb},
    control::{
        client::rpc::ClientError,
        protocol::{Command, Reply},
    },
    error::StartError,
};

/// Carries out a verb, and returns the exit code.
///
/// # Errors
/// What keeps it from being carried out at all.
pub fn run(verb: &Verb) -> Result<u8, StartError> {
    match verb {
        Verb::Start { place, foreground, log_format } => {
            start::start(place, *foreground, *log_format)
        }
        Verb::Stop { place } => Ok(stop::stop(place)),
        Verb::Restart { place } => restart(place),
        Verb::Reload { place } => Ok(reload(place)),
        Verb::Status { place, json } => Ok(status::status(place, *json)),
        Verb::Check { file, config, no_dns } => {
            check_file(file.as_deref().unwrap_or(config), *no_dns)
        }
    }
}

fn check_file(file: &Path, no_dns: bool) -> Result<u8, StartError> {
    let conf = check::read(file)?;
    let mut wrong = conf.wrong(file);
    wrong.extend(check::lines(&conf.lines, file, !no_dns));
    wrong.iter().for_each(|wrong| complain(wrong));
    if !wrong.is_empty() {
        return Ok(WRONG);
    }
    say(&format!("{}: {}, nothing wrong", file.display(), counted(conf.lines.len(), "instance")));
    Ok(0)
}

fn restart(place: &Place) -> Result<u8, StartError> {
    // What cannot be started again is not stopped.
    let conf = check::read(&place.config)?;
    let mut wrong = conf.wrong(&place.config);
    wrong.extend(check::lines(&conf.lines, &place.config, true));
    if !wrong.is_empty() {
        wrong.iter().for_each(|wrong| complain(wrong));
        say("balance is not restarted");
        return Ok(WRONG);
    }
    match Running::find(place) {
        Ok(mut running) => match running.table() {
            Ok(table) if table.foreground => Ok(stop::restart_in_place(place, running, &table)),
            Ok(_) => match stop::stop(place) {
                0 => start::in_background(place),
                code => Ok(code),
            },
            Err(error) => Ok(report(&error)),
        },
        Err(error) if is_absence(&error) => start::in_background(place),
        Err(error) => Ok(report(&error)),
    }
}

fn reload(place: &Place) -> u8 {
    let asked = Running::find(place).and_then(|mut running| running.ask(Command::Reload));
    match asked {
        Ok(Reply::Changed(changed)) if changed.is_empty() => {
            say("balance is reloaded: nothing has changed");
            0
        }
        Ok(Reply::Changed(changed)) => {
            changed.iter().for_each(|line| say(line));
            say("balance is reloaded");
            0
        }
        Ok(Reply::Partly { changed, failed, code }) => {
            changed.iter().for_each(|line| say(line));
            failed.iter().for_each(|line| complain(line));
            let how = if changed.is_empty() { "not reloaded" } else { "reloaded in part" };
            complain(&format!("balance is {how}"));
            code
        }
        Ok(Reply::Wrong(wrong)) => {
            wrong.iter().for_each(|wrong| complain(wrong));
            complain("balance is not reloaded");
            WRONG
        }
        Ok(_) => report(&ClientError::Unreadable),
        Err(error) if is_absence(&error) => {
            say("balance is not running");
            NOT_RUNNING
        }
        Err(error) => report(&error),
    }
}
