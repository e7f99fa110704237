//! The exit codes of `balance`, for `--help` and the manual.
//!
//! Invariant: each exit code is described here once. The codes from 64 to 78 are those of
//! sysexits(3), the codes of `status` and `reload` those of LSB for init scripts, and the codes of
//! `health` those of monitoring plugins.

/// Exit codes in ascending order, each with its meaning.
pub const EXIT_STATUS: [(u8, &str); 19] = [
    (0, "success, also if a command of -c fails without --strict"),
    (
        1,
        "--strict: a command failed; status: a process hangs or has no supervisor; health: WARNING",
    ),
    (2, "health: CRITICAL"),
    (3, "status: no supervisor runs; health: UNKNOWN"),
    (4, "status: the supervisor does not answer"),
    (7, "reload, upgrade: no supervisor runs"),
    (64, "the command line is wrong, or a server is the listener itself"),
    (65, "the name of a server or of -B does not resolve; -c, -i, upgrade: another release runs"),
    (66, "the configuration file cannot be read; -c, -i: there is no such --run-dir"),
    (67, "the user of --user or the group of --control-group does not exist"),
    (
        69,
        "a group is empty, or the --datapath does not work here; -c, -i: no instance runs or answers",
    ),
    (70, "a signal ended a process during its start, or the process hangs"),
    (71, "a system call failed, such as listen; -c, -i: the instance refuses the request"),
    (73, "the control socket cannot be created in the --run-dir, or other users can write to it"),
    (74, "input or output failed"),
    (75, "reload, upgrade: a process or an instance failed meanwhile; try again"),
    (
        77,
        "--datapath, --user or --control-group is not permitted, or the user may not control balance",
    ),
    (78, "the configuration file has a mistake"),
    (150, "status: an instance does not serve, or the supervisor is stopping"),
];

/// The section of `--help`.
pub(super) fn help() -> String {
    let lines = EXIT_STATUS.map(|(code, meaning)| format!("\n  {code:<3}  {meaning}"));
    format!("Exit status:{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_lines_fit_a_terminal() {
        assert!(EXIT_STATUS.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(help().lines().all(|line| line.len() <= 100), "{}", help());
    }
}
