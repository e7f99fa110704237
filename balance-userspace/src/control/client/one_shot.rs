//! Runs one line of commands: `-c`.
//!
//! Invariant: without `--strict`, a failed command gives exit code 0, as in the classic.

use std::io::{self, Write};

use super::{
    InstanceTarget,
    rpc::ClientError,
    script::{self, ScriptOutcome, Transport},
};
use crate::error::StartError;

/// Runs a line of commands on an instance, beginning in group 0. Returns the exit code: not 0 if
/// `strict` is set and a command fails.
///
/// # Errors
/// [`StartError::Usage`] when the operand is neither a port nor a name.
pub fn run_commands(
    target: &InstanceTarget<'_>,
    line: &str,
    strict: bool,
) -> Result<u8, StartError> {
    let parsed = target.parse()?;
    let (out, err) = (&mut io::stdout(), &mut io::stderr());
    let code = target
        .connect(parsed)
        .and_then(|mut connection| run_line(line, strict, &mut connection, out, err));
    Ok(code.unwrap_or_else(|e| e.report(out, err)))
}

pub(super) fn run_line(
    line: &str,
    strict: bool,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, ClientError> {
    Ok(match script::run(line, &mut 0, transport, out, err)? {
        ScriptOutcome::Continue { code } if strict || code == 0 => code,
        ScriptOutcome::Continue { code } => {
            let hint = "the command failed; exit code 0 as in 3.57";
            // The exit code does not depend on the hint.
            let _ = writeln!(err, "balance: {hint}, {code} with --strict");
            0
        }
        ScriptOutcome::Exit(code) => code,
    })
}
