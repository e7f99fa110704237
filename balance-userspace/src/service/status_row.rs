//! A row of `status`: an instance with its figures.
//!
//! Invariant: the figures of a running instance come from the instance itself, at the time of the
//! request. A process that does not answer is not asked twice.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::control::{
    client::rpc::ControlClient,
    protocol::{InstanceCommand, InstanceReply, InstanceRow, InstanceState},
};

/// The longest wait for an instance.
const TIMEOUT: Duration = Duration::from_secs(1);

/// An instance, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Port, and the address if one was given.
    instance: String,
    /// The name (`--name`).
    name: Option<String>,
    pub(super) state: InstanceState,
    pid: Option<u32>,
    address: Option<String>,
    datapath: Option<String>,
    channels_up: Option<usize>,
    channels: Option<usize>,
    connections: u64,
    /// Why the instance does not run.
    pub(super) why: Option<String>,
    /// What differs from the line of the file, in words.
    differences: Vec<String>,
    /// The number of all differences.
    difference_count: usize,
}

impl Row {
    pub(super) fn stopped(instance: String, name: Option<String>) -> Self {
        Self {
            instance,
            name,
            state: InstanceState::Stopped,
            pid: None,
            address: None,
            datapath: None,
            channels_up: None,
            channels: None,
            connections: 0,
            why: None,
            differences: Vec::new(),
            difference_count: 0,
        }
    }

    /// The row of an instance. `silent` are the processes that have not answered.
    pub(super) fn of(row: InstanceRow, silent: &mut HashSet<u32>) -> Self {
        let is_down = matches!(
            row.state,
            InstanceState::Failed | InstanceState::Stopped | InstanceState::Hung
        );
        let mut known = Self {
            state: row.state,
            pid: row.pid,
            connections: row.connections,
            why: Some(row.status).filter(|status| is_down && !status.is_empty()),
            ..Self::stopped(row.name, row.given_name)
        };
        let is_asked =
            row.state == InstanceState::Running && row.pid.is_none_or(|pid| !silent.contains(&pid));
        if let Some(socket) = row.socket.filter(|_| is_asked) {
            let begun = Instant::now();
            if known.ask(&socket).is_none() && begun.elapsed() >= TIMEOUT {
                silent.extend(known.pid);
            }
        }
        known
    }

    /// Adds the figures of the instance itself; `None` if the instance does not reply.
    fn ask(&mut self, socket: &Path) -> Option<()> {
        let deadline = Instant::now().checked_add(TIMEOUT);
        let mut client = ControlClient::connect_until(socket, deadline).ok()?;
        let InstanceReply::Stats(stats) = client.ask(InstanceCommand::Stats).ok()? else {
            return None;
        };
        let InstanceReply::Table(channels) = client.ask(InstanceCommand::Show).ok()? else {
            return None;
        };
        self.address = stats.address.map(|address| address.to_string());
        self.datapath = Some(stats.datapath);
        self.channels_up = Some(channels.iter().filter(|channel| channel.enabled).count());
        self.channels = Some(channels.len());
        self.connections = stats.open;
        self.difference_count = stats.differences.count;
        self.differences = stats.differences.first;
        Some(())
    }

    /// The cells of the row in the table.
    pub(super) fn cells(&self) -> [String; 7] {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let channels = self.channels_up.zip(self.channels);
        let has_process = self.pid.is_some();
        [
            self.name.as_ref().unwrap_or(&self.instance).clone(),
            self.state.to_string(),
            or_none(self.pid.map(|pid| pid.to_string())),
            or_none(self.address.clone()),
            or_none(self.datapath.clone()),
            or_none(channels.map(|(up, all)| format!("{up} of {all}"))),
            or_none(has_process.then(|| self.connections.to_string())),
        ]
    }

    /// The lines below the row in the table.
    pub(super) fn notes(&self) -> Vec<String> {
        let differences =
            self.differences.iter().map(|text| format!("  differs from the file: {text}"));
        let more = self.difference_count.saturating_sub(self.differences.len());
        differences.chain((more > 0).then(|| format!("  and {more} more"))).collect()
    }
}
