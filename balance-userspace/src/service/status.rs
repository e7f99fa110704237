//! The verb `status`.
//!
//! Invariants:
//! - Exit codes are those of LSB for init scripts.
//! - A supervisor or a process that does not answer is reported within two seconds.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    check,
    file_change::{self, FileChange},
    output::{plural, print, print_error, report},
    running::{RunningSupervisor, absolute, is_absence},
    status_row::Row,
    unsupervised,
};
use crate::{
    cli::ServiceLocation,
    control::{
        client::{rpc::ClientError, table::columns},
        protocol::{GenerationRow, InstanceState, SupervisorStatus},
    },
    error::one_line,
};

/// The longest wait for the supervisor. The answer is due within two seconds of the start.
const TIMEOUT: Duration = Duration::from_millis(1_800);

/// Exit code when a server process hangs, or serves although its supervisor has ended. For LSB a
/// program is dead and has a pid file.
const DEAD: u8 = 1;

/// Exit code when no supervisor runs.
const STOPPED: u8 = 3;

/// Exit code when the supervisor does not answer: for LSB the status is unknown.
const UNKNOWN: u8 = 4;

/// Exit code when the supervisor runs but not all instances do. LSB reserves 150 to 199 for
/// applications.
const DEGRADED: u8 = 150;

/// Version of the `--json` format.
const JSON_VERSION: u32 = 1;

/// The status of all instances of a file, as `--json` prints it.
#[derive(Debug, Serialize)]
struct StatusReport {
    version: u32,
    config: String,
    running: bool,
    /// A server process serves, although the supervisor has ended.
    unsupervised: bool,
    pid: Option<u32>,
    /// The version of the supervisor's program.
    program: Option<String>,
    processes: Vec<GenerationRow>,
    instances: Vec<Row>,
    wrong: Vec<String>,
    /// Whether the file has changed since the supervisor loaded it; none if the file cannot be
    /// read.
    file_changed: Option<bool>,
    /// Why the status is unknown.
    error: Option<String>,
    #[serde(skip)]
    change: Option<FileChange>,
}

/// Prints the status of the instances of a file, and returns the exit code.
pub(super) fn status(location: &ServiceLocation, json: bool) -> u8 {
    let config = absolute(&location.config);
    let deadline = Instant::now().checked_add(TIMEOUT);
    let found = RunningSupervisor::until(location, deadline).and_then(|mut running| {
        let pid = running.pid();
        running.table().map(|table| (pid, table))
    });
    let report = match found {
        Ok((pid, table)) => running(&config, pid, table),
        Err(error) if is_absence(&error) => {
            StatusReport { unsupervised: unsupervised::exists(location), ..stopped(&config) }
        }
        Err(error @ ClientError::Timeout) => StatusReport {
            running: true,
            error: Some(one_line(&error.to_string())),
            ..StatusReport::of(&config)
        },
        Err(error) => return report(&error),
    };
    if json {
        let text = serde_json::to_string_pretty(&report).expect("all fields have a JSON form");
        print(&text);
    } else {
        report.show();
    }
    report.code()
}

/// The status of a supervisor.
fn running(config: &Path, pid: u32, table: SupervisorStatus) -> StatusReport {
    // The user of this verb may be unable to read the file.
    let file = check::read(config).ok();
    let change = file.as_ref().map(|file| file_change::of(&table, file));
    let mut silent = HashSet::new();
    StatusReport {
        running: true,
        pid: Some(pid),
        program: Some(table.version),
        processes: table.processes,
        instances: table.instances.into_iter().map(|row| Row::of(row, &mut silent)).collect(),
        wrong: table.wrong,
        file_changed: change.map(|change| change.is_some()),
        change: change.flatten(),
        ..StatusReport::of(config)
    }
}

/// The status when no supervisor runs: the lines of the file.
fn stopped(config: &Path) -> StatusReport {
    let conf = check::read(config).unwrap_or_default();
    let row =
        |line: &super::conf::Line| Row::stopped(line.name.to_string(), line.args.name.clone());
    StatusReport {
        instances: conf.lines.iter().map(row).collect(),
        wrong: conf.wrong(),
        ..StatusReport::of(config)
    }
}

impl StatusReport {
    /// A status without instances.
    fn of(config: &Path) -> Self {
        Self {
            version: JSON_VERSION,
            config: config.display().to_string(),
            running: false,
            unsupervised: false,
            pid: None,
            program: None,
            processes: Vec::new(),
            instances: Vec::new(),
            wrong: Vec::new(),
            file_changed: None,
            error: None,
            change: None,
        }
    }

    fn code(&self) -> u8 {
        // Draining instances are no failure.
        let wanted = self.instances.iter().filter(|row| row.state != InstanceState::Draining);
        let runs = |row: &Row| row.state == InstanceState::Running;
        let mut wanted = wanted.peekable();
        // A stopping supervisor has only draining instances, or none that runs.
        let is_idle = wanted.peek().is_none() && !self.instances.is_empty();
        let all = self.wrong.is_empty() && !is_idle && wanted.all(runs);
        let hangs = self.instances.iter().any(|row| row.state == InstanceState::Hung);
        match self.running {
            true if self.error.is_some() => UNKNOWN,
            true if hangs => DEAD,
            true if all => 0,
            true => DEGRADED,
            false if self.unsupervised => DEAD,
            false => STOPPED,
        }
    }

    fn show(&self) {
        if let Some(error) = &self.error {
            return print_error(&format!("balance: {error} ({})", self.config));
        }
        match self.pid {
            Some(pid) => print(&format!("balance is running (pid {pid}, {})", self.config)),
            None if self.unsupervised => print(&format!(
                "the supervisor of {} has ended, its server process still serves: run balance start",
                self.config
            )),
            None => print(&format!("balance is stopped ({})", self.config)),
        }
        if !self.instances.is_empty() {
            let head =
                ["instance", "state", "pid", "listens on", "datapath", "channels", "connections"];
            let mut lines = vec![head.map(str::to_owned)];
            lines.extend(self.instances.iter().map(Row::cells));
            let right = [false, false, true, false, false, true, true];
            let table = columns(&lines, right);
            let notes = [Vec::new()].into_iter().chain(self.instances.iter().map(Row::notes));
            for (line, notes) in table.lines().zip(notes) {
                print(line.trim_end());
                notes.iter().for_each(|note| print(note));
            }
        }
        self.processes.iter().filter_map(draining).for_each(|line| print(&line));
        if let Some(change) = self.change {
            print(change.text());
        }
        // One process serves many instances, so many can have the same reason.
        let mut told = HashSet::new();
        let why = self.instances.iter().filter_map(|row| row.why.as_ref());
        let why = why.filter(|why| told.insert(*why));
        why.chain(&self.wrong).for_each(|line| print_error(line));
    }
}

/// The line of a process that serves its last connections.
fn draining(process: &GenerationRow) -> Option<String> {
    let seconds = process.draining_seconds?;
    let version = process.version.as_deref().unwrap_or("unknown");
    let open = usize::try_from(process.connections).unwrap_or(usize::MAX);
    Some(format!(
        "process {} (version {version}) has drained for {seconds} s, {} left",
        process.pid,
        plural(open, "connection")
    ))
}
