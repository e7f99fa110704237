//! Carries out a line of commands, for `-c` and for the shell alike.
//!
//! Invariant: commands are carried out in order up to the first that fails, so that none is made
//! on the wrong group because changing to the right one failed.

use std::io::Write;

use super::{
    command::{self, ParsedCommand},
    command_table, render,
    rpc::ClientError,
};
use crate::control::protocol::{InstanceCommand, InstanceReply};
use crate::error::one_line;

/// Exit code when balance did not end.
const UNAVAILABLE: u8 = 69;

/// A running balance.
pub(crate) trait Transport {
    /// Asks it and waits for the reply.
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError>;

    /// ScriptOutcome [`InstanceCommand::Kill`]: waits until it no longer answers, within limits; whether it did so.
    fn ended(&mut self) -> bool;
}

/// What comes after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScriptOutcome {
    /// Another line.
    Continue {
        /// Whether a command failed.
        failed: bool,
    },
    /// Nothing: the client is done, with this exit code.
    Exit(u8),
}

/// Carries out a line, from this current group on.
pub(super) fn run(
    line: &str,
    group: &mut usize,
    master: &mut dyn Transport,
    out: &mut dyn Write,
) -> Result<ScriptOutcome, ClientError> {
    for text in command::split(line) {
        let after = one(text, group, master, out)?;
        if after != (ScriptOutcome::Continue { failed: false }) {
            return Ok(after);
        }
    }
    Ok(ScriptOutcome::Continue { failed: false })
}

fn one(
    text: &str,
    group: &mut usize,
    master: &mut dyn Transport,
    out: &mut dyn Write,
) -> Result<ScriptOutcome, ClientError> {
    let mut failed = false;
    match command::parse(text, *group) {
        Err(wrong) => {
            failed = true;
            say(out, &format!("{wrong}\n"))?;
        }
        Ok(ParsedCommand::Empty) => {}
        Ok(ParsedCommand::Quit) => return Ok(ScriptOutcome::Exit(0)),
        Ok(ParsedCommand::Help) => say(out, &command_table::help())?,
        Ok(ParsedCommand::Version) => say(out, command_table::VERSION)?,
        Ok(ParsedCommand::Group(chosen)) => *group = chosen,
        Ok(ParsedCommand::Kill) => return kill(master, out),
        Ok(ParsedCommand::Request { command, format }) => {
            let reply = master.ask(command)?;
            let rendered = render::render(&format, &reply).ok_or(ClientError::Unreadable)?;
            failed = rendered.failed;
            say(out, &rendered.text)?;
        }
    }
    Ok(ScriptOutcome::Continue { failed })
}

fn kill(master: &mut dyn Transport, out: &mut dyn Write) -> Result<ScriptOutcome, ClientError> {
    match master.ask(InstanceCommand::Kill) {
        // It may be gone before its reply is.
        Ok(InstanceReply::Done | InstanceReply::Already) | Err(ClientError::Gone(_)) => {}
        Ok(InstanceReply::Refused(why)) => {
            say(out, &format!("{}\n", one_line(&why)))?;
            return Ok(ScriptOutcome::Continue { failed: true });
        }
        Ok(_) => return Err(ClientError::Unreadable),
        Err(e) => return Err(e),
    }
    if master.ended() {
        say(out, "shutdown complete, exiting.\n")?;
        return Ok(ScriptOutcome::Exit(0));
    }
    say(out, "shutdown failed.\n")?;
    Ok(ScriptOutcome::Exit(UNAVAILABLE))
}

/// Writes at once: a script may wait for it.
pub(super) fn say(out: &mut dyn Write, text: &str) -> Result<(), ClientError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ClientError::Output)
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
