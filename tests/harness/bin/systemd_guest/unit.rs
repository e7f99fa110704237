//! A unit of the service manager: systemctl(1), its part of the journal, and its processes.
//!
//! Invariants: every command ends within [`COMMAND_TIMEOUT`]. Each line of the journal is printed
//! once.

use std::{fs, process::Command, time::Duration};

use tests::{Outcome, eventually, run};

/// The machine is emulated, so a command may take a hundred times longer than usual.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);

/// How long the journal, a restart or a process may take to appear.
pub(crate) const STATE_TIMEOUT: Duration = Duration::from_secs(120);

/// The place up to which the journal has been read.
const CURSOR: &str = "/run/systemd-guest.cursor";

/// Number of journal lines of a failed step.
const LAST_LINES: &str = "100";

/// A unit, by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit(&'static str);

impl Unit {
    pub(crate) const BALANCE: Self = Self("balance.service");
    pub(crate) const OTHER: Self = Self("balance@other.service");

    /// Runs a verb of systemctl(1) on the unit.
    pub(crate) fn systemctl(self, verb: &str) -> Outcome {
        let mut command = Command::new("systemctl");
        run(command.args(["--no-pager", "--full", verb, self.0]), COMMAND_TIMEOUT)
    }

    /// Runs a verb that must succeed.
    pub(crate) fn succeeds(self, verb: &str) {
        let outcome = self.systemctl(verb);
        assert!(outcome.status.success(), "systemctl {verb}: {outcome:?}");
    }

    /// Asserts on the exit code and on parts of `systemctl status`, and prints its first lines.
    pub(crate) fn assert_status(self, code: i32, parts: &[&str]) {
        let outcome = self.systemctl("status");
        outcome.stdout.lines().take_while(|line| !line.is_empty()).for_each(print);
        assert_eq!(outcome.status.code(), Some(code), "{outcome:?}");
        for part in parts {
            assert!(outcome.stdout.contains(part), "systemctl status lacks {part:?}: {outcome:?}");
        }
    }

    /// Returns a property of systemctl(1) `show`.
    pub(crate) fn property(self, name: &str) -> String {
        let mut show = Command::new("systemctl");
        show.args(["show", "--value", "--property", name, self.0]);
        let outcome = run(&mut show, COMMAND_TIMEOUT);
        assert!(outcome.status.success(), "{outcome:?}");
        outcome.stdout.trim().to_owned()
    }

    /// Returns the main process.
    pub(crate) fn main_pid(self) -> i32 {
        self.property("MainPID").parse().expect("a process id")
    }

    /// Returns the processes of the control group.
    pub(crate) fn processes(self) -> Vec<i32> {
        let list = format!("/sys/fs/cgroup/system.slice/{}/cgroup.procs", self.0);
        // Without a process there is no control group.
        let list = fs::read_to_string(list).unwrap_or_default();
        list.lines().map(|pid| pid.parse().expect("a process id")).collect()
    }

    /// Waits until new lines of the unit's journal contain all these parts.
    pub(crate) fn wait_for_journal(self, parts: &[&str]) {
        let mut lines = Vec::new();
        eventually(STATE_TIMEOUT, "the journal is complete", || {
            lines.extend(self.new_journal());
            let lacks = |part: &&&str| !lines.iter().any(|line: &String| line.contains(**part));
            match parts.iter().find(lacks) {
                Some(part) => Err(format!("the journal lacks {part:?}")),
                None => Ok(()),
            }
        });
    }

    /// Returns and prints the lines of the unit's journal since the last call.
    ///
    /// # Panics
    ///
    /// A process has panicked.
    pub(crate) fn new_journal(self) -> Vec<String> {
        let mut journal = Command::new("journalctl");
        journal.args(["--no-pager", "--quiet", "--output", "cat", "--cursor-file", CURSOR]);
        let outcome = run(journal.args(["--unit", self.0]), COMMAND_TIMEOUT);
        assert!(outcome.status.success(), "{outcome:?}");
        let lines: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
        lines.iter().for_each(|line| print(line));
        assert!(!lines.iter().any(|line| line.contains("panicked")), "a process has panicked");
        lines
    }

    /// Prints what explains a failure.
    pub(crate) fn print_state(self) {
        self.systemctl("status").stdout.lines().for_each(print);
        let mut journal = Command::new("journalctl");
        journal.args(["--no-pager", "--boot", "--lines", LAST_LINES]);
        run(&mut journal, COMMAND_TIMEOUT).stdout.lines().for_each(print);
    }
}

/// Returns the first line of `systemctl --version`.
pub(crate) fn systemd_version() -> String {
    let outcome = run(Command::new("systemctl").arg("--version"), COMMAND_TIMEOUT);
    outcome.stdout.lines().next().unwrap_or_default().to_owned()
}

fn print(line: &str) {
    println!("  | {line}");
}
