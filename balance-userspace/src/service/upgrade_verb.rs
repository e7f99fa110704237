//! The verbs `reload` and `upgrade`.
//!
//! Invariant: both report the outcome of every change, also when the supervisor executes another
//! program meanwhile. That program then sends the reply.

use super::{
    output::{NOT_RUNNING, UNAVAILABLE, WRONG, plural, print, print_error, report},
    running::{RunningSupervisor, is_absence},
};
use crate::{
    cli::ServiceLocation,
    control::{
        client::rpc::ClientError,
        protocol::{InstanceState, SupervisorCommand, SupervisorReply, SupervisorStatus},
    },
};

/// The beginning of the reply to a command that the running program does not know.
const UNREADABLE: &str = "the request cannot be read: ";

/// Exit code for a running program of another release: EX_DATAERR of sysexits(3).
const TOO_OLD: u8 = 65;

/// Applies the changes of the file.
pub(super) fn reload(location: &ServiceLocation) -> u8 {
    run(location, SupervisorCommand::Reload)
}

/// Replaces the program.
pub(super) fn upgrade(location: &ServiceLocation) -> u8 {
    run(location, SupervisorCommand::Upgrade)
}

fn run(location: &ServiceLocation, command: SupervisorCommand) -> u8 {
    let mut running = match RunningSupervisor::find(location) {
        Ok(running) => running,
        Err(error) if is_absence(&error) => {
            print("balance is not running");
            return NOT_RUNNING;
        }
        Err(error) => return report(&error),
    };
    match running.ask(command) {
        // The connection does not survive the execution of another program.
        Err(ClientError::Gone(_)) => after_upgrade(location, command),
        Err(ClientError::Refused(why)) if why.starts_with(UNREADABLE) => {
            print_error("the running balance is too old for an upgrade: restart it");
            TOO_OLD
        }
        reply => {
            show(reply, if command == SupervisorCommand::Reload { "reloaded" } else { "upgraded" })
        }
    }
}

/// Waits for the outcome of an upgrade.
fn after_upgrade(location: &ServiceLocation, command: SupervisorCommand) -> u8 {
    let mut running = match RunningSupervisor::find(location) {
        Ok(running) => running,
        Err(error) if is_absence(&error) => {
            print_error("the supervisor has ended: see its log");
            print_error("the server process still serves: run balance start");
            return UNAVAILABLE;
        }
        Err(error) => return report(&error),
    };
    match (running.ask(SupervisorCommand::Takeover), running.table()) {
        (Ok(SupervisorReply::Reloaded { changed, differences }), Ok(table)) => {
            if command == SupervisorCommand::Reload {
                changed.iter().chain(&differences).for_each(|line| print(line));
            }
            print(&upgraded(running.pid(), &table));
            0
        }
        (reply, _) => show(reply, "upgraded"),
    }
}

/// The line that tells a user what runs now.
fn upgraded(pid: u32, table: &SupervisorStatus) -> String {
    let old = table.instances.iter().filter(|row| row.state == InstanceState::Draining);
    let open: u64 = old.map(|row| row.connections).sum();
    let open = usize::try_from(open).unwrap_or(usize::MAX);
    let rest = match open {
        0 => String::new(),
        open => format!(", {} in the old process", plural(open, "connection")),
    };
    format!("balance is upgraded: version {} (pid {pid}){rest}", table.version)
}

/// Prints a reply, and returns the exit code. `done` is the participle of the verb.
fn show(reply: Result<SupervisorReply, ClientError>, done: &str) -> u8 {
    match reply {
        Ok(SupervisorReply::Reloaded { changed, differences }) => {
            changed.iter().chain(&differences).for_each(|line| print(line));
            let nothing = if changed.is_empty() { ": nothing has changed" } else { "" };
            print(&format!("balance is {done}{nothing}"));
            0
        }
        Ok(SupervisorReply::PartlyReloaded { changed, differences, failed, code }) => {
            changed.iter().chain(&differences).for_each(|line| print(line));
            failed.iter().for_each(|line| print_error(line));
            let how = if changed.is_empty() { "not " } else { "" };
            let part = if changed.is_empty() { "" } else { " in part" };
            print_error(&format!("balance is {how}{done}{part}"));
            code
        }
        Ok(SupervisorReply::InvalidFile(wrong)) => {
            wrong.iter().for_each(|wrong| print_error(wrong));
            print_error(&format!("balance is not {done}"));
            WRONG
        }
        Ok(_) => report(&ClientError::Unreadable),
        Err(error) => report(&error),
    }
}
