//! What a verb prints, and the exit codes that go with it.

use std::io::{Write as _, stderr, stdout};

use crate::{
    control::{
        client::rpc::ClientError,
        protocol::{InstanceState, SupervisorStatus},
    },
    error::one_line,
};

/// What a file with a mistake ends with: EX_CONFIG of sysexits(3).
pub(super) const WRONG: u8 = 78;

/// Exit code of a verb that needs what does not run, as LSB has it for init scripts.
pub(super) const NOT_RUNNING: u8 = 7;

/// EX_UNAVAILABLE of sysexits(3): something does not serve.
pub(super) const UNAVAILABLE: u8 = 69;

/// Says what does not serve, and returns the exit code that goes with it.
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

pub(super) fn report(error: &ClientError) -> u8 {
    error.report(&mut stdout(), &mut stderr())
}

/// Lines for who has given the verb; nobody may be listening.
pub(super) fn print(lines: &str) {
    let text: String = lines.lines().map(|line| one_line(line) + "\n").collect();
    let _ = stdout().write_all(text.as_bytes());
}

/// The same about something that is wrong, which may be told in the words of whoever did it.
pub(super) fn print_error(line: &str) {
    let _ = stderr().write_all(format!("{}\n", one_line(line)).as_bytes());
}

pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
