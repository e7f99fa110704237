//! The interactive shell: `-i`.
//!
//! Invariant: what it prints does not depend on where its commands come from, apart from the
//! editing of the line: prompts are printed for a pipe too, and everything at once.

use std::{
    io::{self, BufRead, IsTerminal as _, Read as _, Write},
    path::Path,
};

use super::{
    connection::Connection,
    rpc::ClientError,
    script::{self, ScriptOutcome, say},
    terminal::Terminal,
};

/// Bytes of the longest line; what is longer is taken as more than one line.
const LONGEST: u64 = 65_536;

/// Where lines come from.
pub(super) trait Lines {
    /// Prints the prompt and waits for a line; `None` at the end.
    fn next(&mut self, prompt: &str, out: &mut dyn Write) -> Result<Option<String>, ClientError>;
}

/// Runs the shell on the instance with this port and bind address until it is left, and returns
/// the exit code.
pub fn shell(run_dir: Option<&Path>, bind: Option<&str>, port: u16) -> u8 {
    let out = &mut io::stdout();
    let code = Connection::find(run_dir, bind, port).and_then(|mut master| {
        let mut lines: Box<dyn Lines> = match editor() {
            Some(terminal) => Box::new(terminal),
            None => Box::new(Plain(io::stdin().lock())),
        };
        converse(&mut master, &mut *lines, out)
    });
    code.unwrap_or_else(|e| e.report(out, &mut io::stderr()))
}

/// The line editor, when there is a terminal that it can be used on.
fn editor() -> Option<Terminal> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if terminal && !dumb { Terminal::new().ok() } else { None }
}

fn converse(
    master: &mut Connection,
    lines: &mut dyn Lines,
    out: &mut dyn Write,
) -> Result<u8, ClientError> {
    let pid = master.pid();
    say(
        out,
        &format!("\nbalance 3.57 interactive command shell\nPID of master process is {pid}\n\n"),
    )?;
    let mut group = 0;
    loop {
        // Somebody may take an hour to type: nothing is kept open meanwhile.
        master.hang_up();
        let Some(line) = lines.next(&format!("balance[{group}] "), out)? else { return Ok(0) };
        if let ScriptOutcome::Exit(code) = script::run(&line, &mut group, master, out)? {
            return Ok(code);
        }
    }
}

/// Lines of a pipe, a file, or a terminal without editing.
struct Plain<R>(R);

impl<R: BufRead> Lines for Plain<R> {
    fn next(&mut self, prompt: &str, out: &mut dyn Write) -> Result<Option<String>, ClientError> {
        say(out, prompt)?;
        let mut line = Vec::new();
        let read = (&mut self.0).take(LONGEST).read_until(b'\n', &mut line);
        if read.map_err(ClientError::Input)? == 0 {
            say(out, "\n")?;
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
