//! One line of commands and out: `-c`.
//!
//! Invariant: a command that fails still gives exit code 0, as scripts expect of the classic,
//! unless the caller is strict.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{
    connection::Connection,
    rpc::ClientError,
    script::{self, ScriptOutcome, Transport},
};

/// Carries out a line of commands on the instance with this port and bind address, beginning in
/// group 0, and returns the exit code. With `strict` a command that fails gives 1.
pub fn once(run_dir: Option<&Path>, bind: Option<&str>, port: u16, line: &str, strict: bool) -> u8 {
    let out = &mut io::stdout();
    let code = Connection::find(run_dir, bind, port)
        .and_then(|mut master| carry_out(line, strict, &mut master, out));
    code.unwrap_or_else(|e| e.report(out, &mut io::stderr()))
}

pub(super) fn carry_out(
    line: &str,
    strict: bool,
    master: &mut dyn Transport,
    out: &mut dyn Write,
) -> Result<u8, ClientError> {
    Ok(match script::run(line, &mut 0, master, out)? {
        ScriptOutcome::Continue { failed } => u8::from(failed && strict),
        ScriptOutcome::Exit(code) => code,
    })
}
