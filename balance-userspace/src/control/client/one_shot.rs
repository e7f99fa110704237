//! Runs one line of commands: `-c`.
//!
//! Invariant: without `--strict`, a failed command gives exit code 0, as in the classic.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{
    connection::Connection,
    rpc::ClientError,
    script::{self, ScriptOutcome, Transport},
};

/// Runs a line of commands on the instance with this port and bind address, beginning in group 0.
/// Returns the exit code: 1 if `strict` is set and a command fails.
pub fn run_commands(
    run_dir: Option<&Path>,
    bind: Option<&str>,
    port: u16,
    line: &str,
    strict: bool,
) -> u8 {
    let out = &mut io::stdout();
    let code = Connection::find(run_dir, bind, port)
        .and_then(|mut connection| run_line(line, strict, &mut connection, out));
    code.unwrap_or_else(|e| e.report(out, &mut io::stderr()))
}

pub(super) fn run_line(
    line: &str,
    strict: bool,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
) -> Result<u8, ClientError> {
    Ok(match script::run(line, &mut 0, transport, out)? {
        ScriptOutcome::Continue { failed } => u8::from(failed && strict),
        ScriptOutcome::Exit(code) => code,
    })
}
