//! Carries out a line of commands, for `-c` and for the shell alike.
//!
//! Invariant: commands are carried out in order up to the first that fails, so that none is made
//! on the wrong group because changing to the right one failed.

use std::io::Write;

use super::{
    command::{self, Parsed},
    help, render,
    rpc::ClientError,
};
use crate::control::protocol::{Command, Reply};
use crate::error::one_line;

/// Exit code when balance did not end.
const UNAVAILABLE: u8 = 69;

/// A running balance.
pub(crate) trait Asked {
    /// Asks it and waits for the reply.
    fn ask(&mut self, command: Command) -> Result<Reply, ClientError>;

    /// After [`Command::Kill`]: waits until it no longer answers, within limits; whether it did so.
    fn ended(&mut self) -> bool;
}

/// What comes after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another line.
    Next {
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
    master: &mut dyn Asked,
    out: &mut dyn Write,
) -> Result<After, ClientError> {
    for text in command::split(line) {
        let after = one(text, group, master, out)?;
        if after != (After::Next { failed: false }) {
            return Ok(after);
        }
    }
    Ok(After::Next { failed: false })
}

fn one(
    text: &str,
    group: &mut usize,
    master: &mut dyn Asked,
    out: &mut dyn Write,
) -> Result<After, ClientError> {
    let mut failed = false;
    match command::parse(text, *group) {
        Err(wrong) => {
            failed = true;
            say(out, &format!("{wrong}\n"))?;
        }
        Ok(Parsed::Empty) => {}
        Ok(Parsed::Quit) => return Ok(After::Exit(0)),
        Ok(Parsed::Help) => say(out, &help::help())?,
        Ok(Parsed::Version) => say(out, help::VERSION)?,
        Ok(Parsed::Group(chosen)) => *group = chosen,
        Ok(Parsed::Kill) => return kill(master, out),
        Ok(Parsed::Ask { command, render }) => {
            let reply = master.ask(command)?;
            let answer = render::answer(&render, &reply).ok_or(ClientError::Unreadable)?;
            failed = answer.failed;
            say(out, &answer.text)?;
        }
    }
    Ok(After::Next { failed })
}

fn kill(master: &mut dyn Asked, out: &mut dyn Write) -> Result<After, ClientError> {
    match master.ask(Command::Kill) {
        // It may be gone before its reply is.
        Ok(Reply::Done | Reply::Already) | Err(ClientError::Gone(_)) => {}
        Ok(Reply::Refused(why)) => {
            say(out, &format!("{}\n", one_line(&why)))?;
            return Ok(After::Next { failed: true });
        }
        Ok(_) => return Err(ClientError::Unreadable),
        Err(e) => return Err(e),
    }
    if master.ended() {
        say(out, "shutdown complete, exiting.\n")?;
        return Ok(After::Exit(0));
    }
    say(out, "shutdown failed.\n")?;
    Ok(After::Exit(UNAVAILABLE))
}

/// Writes at once: a script may wait for it.
pub(super) fn say(out: &mut dyn Write, text: &str) -> Result<(), ClientError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ClientError::Output)
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
