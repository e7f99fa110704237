//! The interactive shell: `-i`.
//!
//! Invariant: the output is the same for a terminal and for a pipe, apart from line editing. A pipe
//! gets prompts too, and nothing is buffered.

use std::{
    io::{self, BufRead, IsTerminal as _, Read as _, Write},
    time::Duration,
};

use super::{
    InstanceTarget,
    connection::Connection,
    rpc::ClientError,
    script::{self, ScriptOutcome, print},
    terminal::Terminal,
};
use crate::error::StartError;

/// Longest line in bytes. A longer line is split.
const MAX_LINE: u64 = 65_536;

/// The longest wait of a completion.
const COMPLETION_LIMIT: Duration = Duration::from_millis(300);

/// A source of lines.
pub(super) trait LineSource {
    /// Prints the prompt and waits for a line. `None` is the end of the input.
    fn next_line(
        &mut self,
        prompt: &str,
        out: &mut dyn Write,
    ) -> Result<Option<String>, ClientError>;
}

/// Runs the shell on an instance until the user leaves it. Returns the exit code.
///
/// # Errors
/// [`StartError::Usage`] when the operand is neither a port nor a name.
pub fn shell(target: &InstanceTarget<'_>) -> Result<u8, StartError> {
    let parsed = target.parse()?;
    let (out, err) = (&mut io::stdout(), &mut io::stderr());
    let code = target.connect(parsed).and_then(|mut connection| {
        let mut lines: Box<dyn LineSource> = match editor(&connection) {
            Some(terminal) => Box::new(terminal),
            None => Box::new(PlainLines(io::stdin().lock())),
        };
        run_shell(&mut connection, &mut *lines, out, err)
    });
    Ok(code.unwrap_or_else(|e| e.report(out, err)))
}

/// The line editor, if standard input and output are a terminal that supports it.
fn editor(connection: &Connection) -> Option<Terminal> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !terminal || dumb {
        return None;
    }
    Terminal::new(Box::new(connection.server_names_within(COMPLETION_LIMIT))).ok()
}

fn run_shell(
    connection: &mut Connection,
    lines: &mut dyn LineSource,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, ClientError> {
    let pid = connection.pid();
    print(
        out,
        &format!("\nbalance 3.57 interactive command shell\nPID of master process is {pid}\n\n"),
    )?;
    let mut group = 0;
    loop {
        // The user may take an hour to type, so keep no connection open meanwhile.
        connection.close();
        let Some(line) = lines.next_line(&format!("balance[{group}] "), out)? else { return Ok(0) };
        if let ScriptOutcome::Exit(code) = script::run(&line, &mut group, connection, out, err)? {
            return Ok(code);
        }
    }
}

/// Lines of a pipe, a file, or a terminal without line editing.
struct PlainLines<R>(R);

impl<R: BufRead> LineSource for PlainLines<R> {
    fn next_line(
        &mut self,
        prompt: &str,
        out: &mut dyn Write,
    ) -> Result<Option<String>, ClientError> {
        print(out, prompt)?;
        let mut line = Vec::new();
        let read = (&mut self.0).take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(ClientError::Input)? == 0 {
            print(out, "\n")?;
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
