//! Output and exit codes of the verbs.
//!
//! Invariant: a write error on standard output or standard error does not change the exit code.

use std::io::{Write as _, stderr, stdout};

use crate::{
    control::{
        client::rpc::ClientError,
        protocol::{InstanceState, SupervisorStatus},
    },
    error::one_line,
};

/// Exit code for a file with a mistake: EX_CONFIG of sysexits(3).
pub(super) const WRONG: u8 = 78;

/// Exit code of a verb that needs a running supervisor, as LSB defines it for init scripts.
pub(super) const NOT_RUNNING: u8 = 7;

/// Exit code when an instance does not serve: EX_UNAVAILABLE of sysexits(3).
pub(super) const UNAVAILABLE: u8 = 69;

/// Prints why instances do not serve, and returns the exit code.
pub(super) fn print_failures(table: &SupervisorStatus) -> u8 {
    let failed = table.instances.iter().filter(|row| row.state == InstanceState::Failed);
    let failed: Vec<_> = failed.collect();
    failed.iter().for_each(|row| print_error(&row.status));
    table.wrong.iter().for_each(|line| print_error(line));
    match (table.wrong.is_empty(), failed.is_empty()) {
        (true, true) => 0,
        (false, _) => WRONG,
        (true, false) => UNAVAILABLE,
    }
}

/// Prints an error of the control client, and returns its exit code.
pub(super) fn report(error: &ClientError) -> u8 {
    error.report(&mut stdout(), &mut stderr())
}

/// Prints lines on standard output, without control characters. Ignores write errors.
pub(super) fn print(lines: &str) {
    let text: String = lines.lines().map(|line| one_line(line) + "\n").collect();
    let _ = stdout().write_all(text.as_bytes());
}

/// Prints a line of a configuration file on standard output, byte for byte. Ignores write errors.
pub(super) fn print_unchanged(line: &str) {
    let _ = stdout().write_all(format!("{line}\n").as_bytes());
}

/// Prints one line on standard error, without control characters. Ignores write errors.
pub(super) fn print_error(line: &str) {
    let _ = stderr().write_all(format!("{}\n", one_line(line)).as_bytes());
}

/// Formats a count with its noun: `1 instance`, `2 instances`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
