//! The verb `status`.
//!
//! Invariant: the figures of a running instance come from the instance itself, at the time of the
//! request. Exit codes are those of LSB for init scripts.

use std::path::Path;

use serde::Serialize;

use super::{
    check,
    output::{print, print_error, report},
    running::{RunningSupervisor, absolute, is_absence},
};
use crate::{
    cli::ServiceLocation,
    control::{
        client::{rpc::ControlClient, table::columns},
        protocol::{InstanceCommand, InstanceReply, InstanceRow, InstanceState},
    },
};

/// Exit code when no supervisor runs.
const STOPPED: u8 = 3;

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
    pid: Option<u32>,
    instances: Vec<Row>,
    wrong: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    instance: String,
    state: InstanceState,
    pid: Option<u32>,
    address: Option<String>,
    datapath: Option<String>,
    channels_up: Option<usize>,
    channels: Option<usize>,
    connections: u64,
    /// Why the instance does not run.
    why: Option<String>,
}

/// Prints the status of the instances of a file, and returns the exit code.
pub(super) fn status(location: &ServiceLocation, json: bool) -> u8 {
    let config = absolute(&location.config);
    let found = RunningSupervisor::find(location).and_then(|mut running| {
        let pid = running.pid();
        running.table().map(|table| (pid, table))
    });
    let report = match found {
        Ok((pid, table)) => StatusReport {
            version: JSON_VERSION,
            config: config.display().to_string(),
            running: true,
            pid: Some(pid),
            instances: table.instances.into_iter().map(Row::of).collect(),
            wrong: table.wrong,
        },
        Err(error) if is_absence(&error) => stopped(&config),
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

/// The status when no supervisor runs: the lines of the file.
fn stopped(config: &Path) -> StatusReport {
    let conf = check::read(config).unwrap_or_default();
    let instances = conf.lines.iter().map(|line| Row::stopped(line.name.to_string()));
    StatusReport {
        version: JSON_VERSION,
        config: config.display().to_string(),
        running: false,
        pid: None,
        instances: instances.collect(),
        wrong: conf.wrong(),
    }
}

impl StatusReport {
    fn code(&self) -> u8 {
        // Draining instances are no failure.
        let wanted = self.instances.iter().filter(|row| row.state != InstanceState::Draining);
        let runs = |row: &Row| row.state == InstanceState::Running;
        let mut wanted = wanted.peekable();
        // A stopping supervisor has only draining instances, or none that runs.
        let is_idle = wanted.peek().is_none() && !self.instances.is_empty();
        let all = self.wrong.is_empty() && !is_idle && wanted.all(runs);
        match self.running {
            true if all => 0,
            true => DEGRADED,
            false => STOPPED,
        }
    }

    fn show(&self) {
        match self.pid {
            Some(pid) => print(&format!("balance is running (pid {pid}, {})", self.config)),
            None => print(&format!("balance is stopped ({})", self.config)),
        }
        if !self.instances.is_empty() {
            let head =
                ["instance", "state", "pid", "listens on", "datapath", "channels", "connections"];
            let mut lines = vec![head.map(str::to_owned)];
            lines.extend(self.instances.iter().map(Row::cells));
            let right = [false, false, true, false, false, true, true];
            print(columns(&lines, right).trim_end());
        }
        let why = self.instances.iter().filter_map(|row| row.why.as_ref());
        why.chain(&self.wrong).for_each(|line| print_error(line));
    }
}

impl Row {
    fn stopped(instance: String) -> Self {
        Self {
            instance,
            state: InstanceState::Stopped,
            pid: None,
            address: None,
            datapath: None,
            channels_up: None,
            channels: None,
            connections: 0,
            why: None,
        }
    }

    fn of(row: InstanceRow) -> Self {
        let is_down = matches!(row.state, InstanceState::Failed | InstanceState::Stopped);
        let known = Self {
            state: row.state,
            pid: row.pid,
            connections: row.connections,
            why: Some(row.status).filter(|status| is_down && !status.is_empty()),
            ..Self::stopped(row.name)
        };
        let Some(socket) = row.socket.filter(|_| row.state == InstanceState::Running) else {
            return known;
        };
        known.asked(&socket).unwrap_or(known)
    }

    /// Adds the figures of the instance itself; `None` if the instance does not reply.
    fn asked(&self, socket: &Path) -> Option<Self> {
        let mut client = ControlClient::connect(socket).ok()?;
        let InstanceReply::Stats(stats) = client.ask(InstanceCommand::Stats).ok()? else {
            return None;
        };
        let InstanceReply::Table(channels) = client.ask(InstanceCommand::Show).ok()? else {
            return None;
        };
        Some(Self {
            instance: self.instance.clone(),
            why: self.why.clone(),
            address: stats.address.map(|address| address.to_string()),
            datapath: Some(stats.datapath),
            channels_up: Some(channels.iter().filter(|channel| channel.enabled).count()),
            channels: Some(channels.len()),
            connections: stats.open,
            ..*self
        })
    }

    fn cells(&self) -> [String; 7] {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let channels = self.channels_up.zip(self.channels);
        let has_process = self.pid.is_some();
        [
            self.instance.clone(),
            self.state.to_string(),
            or_none(self.pid.map(|pid| pid.to_string())),
            or_none(self.address.clone()),
            or_none(self.datapath.clone()),
            or_none(channels.map(|(up, all)| format!("{up} of {all}"))),
            or_none(has_process.then(|| self.connections.to_string())),
        ]
    }
}
