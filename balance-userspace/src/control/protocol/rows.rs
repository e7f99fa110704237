//! Rows and totals in replies.
//!
//! Invariants: a row holds numbers and addresses; only the client makes text of them. A field that
//! an earlier program does not send has a default, because clients are upgraded before the program
//! that runs.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::selection::{ChannelId, Differences, Method};

/// A channel and its counters, live connections included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRow {
    /// Number of the group.
    pub group: usize,
    /// How the group selects a channel.
    pub method: Method,
    /// Number in the group.
    pub channel: usize,
    /// The name of the server.
    #[serde(default)]
    pub name: String,
    /// Whether the channel takes new connections.
    pub enabled: bool,
    /// The first of the server's addresses.
    pub address: SocketAddr,
    /// When the server's name stopped resolving, in seconds since 1970; none if it resolves.
    pub unresolved_since: Option<u64>,
    /// Connections at present, attempts included.
    pub current: u32,
    /// Attempts so far.
    pub total: u64,
    /// Connections at a time, 0 for no limit.
    pub max: u32,
    /// Bytes from clients.
    pub sent: u64,
    /// Bytes to clients.
    pub rcvd: u64,
}

/// Totals of an instance since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The name of the instance (`--name`).
    #[serde(default)]
    pub name: Option<String>,
    /// The datapath of new connections.
    pub datapath: String,
    /// The listen address.
    pub address: Option<SocketAddr>,
    /// Open connections, including connections that are being closed.
    pub open: u64,
    /// Accepted clients: the sum of `open`, `clean`, `broken`, `unserved` and `left`.
    pub accepted: u64,
    /// Connections that both sides closed in order.
    #[serde(default)]
    pub clean: u64,
    /// Connections that ended otherwise.
    pub broken: u64,
    /// Clients that no channel took.
    pub unserved: u64,
    /// Clients that left, or were disconnected, before they had a server.
    #[serde(default)]
    pub left: u64,
    /// Log lines lost because the reader of the log was too slow.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// The most open connections.
    #[serde(default)]
    pub limit: u64,
    /// The process that serves the instance.
    #[serde(default)]
    pub process: Option<ProcessRow>,
    /// The datapath's own counters, in the order of display.
    #[serde(default)]
    pub counters: Vec<CounterRow>,
    /// The differences of the servers from the configuration.
    #[serde(default)]
    pub differences: Differences,
}

/// A process, with the connections of all its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Process id.
    pub pid: u32,
    /// Open connections.
    pub open: u64,
    /// The most open connections.
    pub limit: u64,
    /// The configuration file of its supervisor.
    pub config: Option<PathBuf>,
}

/// A counter of a datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// Its name in the output of `stats`.
    pub name: String,
    /// Its value since the start.
    pub value: u64,
    /// Distinguishes counters of the same name.
    pub reason: Option<String>,
}

/// A live connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The client's address.
    pub client: SocketAddr,
    /// The channel; none if it was removed meanwhile.
    pub id: Option<ChannelId>,
    /// The name of the server, also of a removed one.
    #[serde(default)]
    pub server: Option<String>,
    /// The local address towards the server, once connected.
    #[serde(default)]
    pub source: Option<SocketAddr>,
    /// The server's address, once connected.
    pub backend: Option<SocketAddr>,
    /// Time since the accept, in milliseconds.
    pub age_ms: u64,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub rcvd: u64,
    /// The datapath, once connected.
    pub datapath: Option<String>,
}

/// A server process of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRow {
    /// Process id.
    pub pid: u32,
    /// The version of its program; none until the process has said it.
    pub version: Option<String>,
    /// For how many seconds the process has been draining; none if it serves or starts.
    pub draining_seconds: Option<u64>,
    /// Its open connections.
    pub connections: u64,
}

/// The state of a supervisor and its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// The version of the program; empty if it is too old to say it.
    #[serde(default)]
    pub version: String,
    /// Whether the supervisor runs in the foreground, as under a service manager.
    pub foreground: bool,
    /// Start time in nanoseconds of CLOCK_MONOTONIC. A restart changes it.
    pub began: u64,
    /// Whether every instance has been tried.
    pub settled: bool,
    /// Whether the supervisor is stopping.
    pub stopping: bool,
    /// Invalid lines of the configuration file, as `FILE:LINE: REASON`.
    pub wrong: Vec<String>,
    /// The server processes, the current one first.
    #[serde(default)]
    pub processes: Vec<GenerationRow>,
    /// Every instance in the order of the file, then the draining processes of former instances.
    pub instances: Vec<InstanceRow>,
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// The process does not serve yet.
    Starting,
    /// The process serves.
    Running,
    /// The process has not replied to its supervisor for seconds.
    Hung,
    /// The process accepts no more clients and waits for its connections to end.
    Draining,
    /// No process; the supervisor will try again.
    Failed,
    /// No process.
    Stopped,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Hung => "hung",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

/// An instance of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// Port, and the address if one was given.
    pub name: String,
    /// The name (`--name`).
    #[serde(default)]
    pub given_name: Option<String>,
    /// The arguments of the instance; empty if the instance has no line any more.
    #[serde(default)]
    pub words: Vec<String>,
    /// The state.
    pub state: InstanceState,
    /// The process id.
    pub pid: Option<u32>,
    /// The control socket, as long as the instance accepts clients.
    pub socket: Option<PathBuf>,
    /// Connections, as last reported by the process.
    pub connections: u64,
    /// The status that the process reported last, or the reason why it does not run.
    pub status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_the_first_supervisors_is_read() {
        let text = r#"{"foreground":true,"began":1,"settled":true,"stopping":false,
            "wrong":["f:1: x"],"instances":[{"name":"25","state":"running","pid":7,
            "socket":"/run/x","connections":1,"status":"s"}]}"#;
        let status: SupervisorStatus = serde_json::from_str(text).unwrap();
        assert_eq!((status.instances.len(), status.processes.len()), (1, 0));
    }
}
