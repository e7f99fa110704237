//! Runs a line of commands, for `-c` and for the shell.
//!
//! Invariant: commands run in order up to the first failure. So no command acts on the wrong group
//! after a failed change of the group.

use std::io::Write;

use super::{
    command::{self, ParsedCommand},
    command_table, render,
    rpc::ClientError,
};
use crate::control::protocol::{InstanceCommand, InstanceReply};
use crate::error::one_line;

/// Exit code of a command that failed, with `--strict`.
const FAILED: u8 = 1;

/// EX_UNAVAILABLE of sysexits(3): balance did not end.
const UNAVAILABLE: u8 = 69;

/// Carries commands to a running instance.
pub(crate) trait Transport {
    /// Sends a command and waits for the reply.
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError>;

    /// The name of the instance (`--name`) at the time of the last request.
    fn instance_name(&self) -> Option<&str>;

    /// Waits for the end of the instance after [`InstanceCommand::Kill`]. Returns false on a
    /// timeout.
    fn wait_until_ended(&mut self) -> bool;
}

/// The outcome of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScriptOutcome {
    /// The client continues with another line.
    Continue {
        /// The exit code of the failed command with `--strict`; 0 if no command failed.
        code: u8,
    },
    /// The client ends with this exit code.
    Exit(u8),
}

/// Runs a line of commands. `group` is the current group before and after it. `err` gets hints on
/// mistakes; the texts on `out` are those of the classic.
pub(super) fn run(
    line: &str,
    group: &mut usize,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ScriptOutcome, ClientError> {
    for text in command::split(line) {
        let outcome = run_one(text, group, transport, out, err)?;
        if outcome != (ScriptOutcome::Continue { code: 0 }) {
            return Ok(outcome);
        }
    }
    Ok(ScriptOutcome::Continue { code: 0 })
}

fn run_one(
    text: &str,
    group: &mut usize,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ScriptOutcome, ClientError> {
    let mut code = 0;
    match command::parse(text, *group) {
        Err(error) => {
            code = FAILED;
            print(out, &format!("{error}\n"))?;
            if let Some(hint) = command::hint(text, &error) {
                // A hint that cannot be written is not missed.
                let _ = writeln!(err, "balance: {hint}");
            }
        }
        Ok(ParsedCommand::Empty) => {}
        Ok(ParsedCommand::Quit) => return Ok(ScriptOutcome::Exit(0)),
        Ok(ParsedCommand::Help) => print(out, &command_table::help())?,
        Ok(ParsedCommand::Version) => print(out, command_table::VERSION)?,
        Ok(ParsedCommand::Group(chosen)) => *group = chosen,
        Ok(ParsedCommand::Kill) => match kill(transport, out) {
            Err(error @ ClientError::Denied { may_read: true, .. }) => {
                code = error.report(out, err);
            }
            ended => return ended,
        },
        Ok(ParsedCommand::Request { command, format }) => match transport.ask(command) {
            Ok(reply) => {
                let rendered = render::render(&format, &reply, transport.instance_name());
                let rendered = rendered.ok_or(ClientError::Unreadable)?;
                code = if rendered.failed { FAILED } else { 0 };
                print(out, &rendered.text)?;
            }
            // The other commands of the user are not refused.
            Err(error @ ClientError::Denied { may_read: true, .. }) => {
                code = error.report(out, err);
            }
            Err(error) => return Err(error),
        },
    }
    Ok(ScriptOutcome::Continue { code })
}

fn kill(transport: &mut dyn Transport, out: &mut dyn Write) -> Result<ScriptOutcome, ClientError> {
    match transport.ask(InstanceCommand::Kill) {
        // The instance may end before its reply arrives.
        Ok(InstanceReply::Done | InstanceReply::Already) | Err(ClientError::Gone(_)) => {}
        Ok(InstanceReply::Refused(reason)) => {
            print(out, &format!("{}\n", one_line(&reason)))?;
            return Ok(ScriptOutcome::Continue { code: FAILED });
        }
        Ok(_) => return Err(ClientError::Unreadable),
        Err(e) => return Err(e),
    }
    if transport.wait_until_ended() {
        print(out, "shutdown complete, exiting.\n")?;
        return Ok(ScriptOutcome::Exit(0));
    }
    print(out, "shutdown failed.\n")?;
    Ok(ScriptOutcome::Exit(UNAVAILABLE))
}

/// Writes and flushes at once, because a script may wait for the text.
pub(super) fn print(out: &mut dyn Write, text: &str) -> Result<(), ClientError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ClientError::Output)
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
