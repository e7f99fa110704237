//! What a control client and a running balance say to each other: one JSON object a line, a
//! request and then its reply.
//!
//! Invariant: versioned; either side answers a version that it does not know with a refusal and
//! never guesses. The `version` of a request and [`Reply::Mismatch`] stay as they are in every
//! version, so that any two can tell each other. No text for people here: the client renders
//! replies.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::selection::{ChannelId, Method};

/// Version of the protocol; raised when a reader of the old one would misunderstand the new one.
pub const VERSION: u32 = 1;

/// Bytes of the longest request that is taken: room for the arguments of a very large instance.
pub const LINE: usize = 1 << 20;

/// Bytes of the longest reply that is taken: room for the sessions of a very large instance.
pub const REPLY_LINE: usize = 32 << 20;

/// A client's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the client.
    pub version: u32,
    /// What is wanted.
    pub command: Command,
}

/// What every version can read of a client's line, commands that it does not know included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Preamble {
    /// Version of the client.
    pub version: u32,
}

/// What can be wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Who is there? Answered by [`Reply::Hello`].
    Hello,
    /// All channels. Answered by [`Reply::Table`].
    Show,
    /// All live connections. Answered by [`Reply::Sessions`].
    Sessions,
    /// What has been done since the start. Answered by [`Reply::Stats`].
    Stats,
    /// One channel, for graphs. Answered by [`Reply::Channel`].
    Channel(ChannelId),
    /// Let a channel take new connections. Standing connections are not touched.
    Enable(ChannelId),
    /// Let it take no new connections. Standing connections are not touched.
    Disable(ChannelId),
    /// Set attempts and bytes of a channel to zero.
    Reset(ChannelId),
    /// Add a channel, disabled, to a group. The host may carry a port that wins, as `host:port`.
    /// Answered by [`Reply::Created`].
    Create {
        /// Number of the group; it may be new.
        group: usize,
        /// Name or address.
        host: String,
        /// Port or name of a service.
        port: String,
    },
    /// Give a disabled channel another address. Standing connections stay where they are.
    Assign {
        /// Which one.
        id: ChannelId,
        /// Name or address.
        host: String,
        /// Port or name of a service.
        port: String,
    },
    /// Set a channel's connections at a time, 0 for no limit. Standing ones are not touched.
    SetMax {
        /// Which one.
        id: ChannelId,
        /// Connections at a time.
        max: u32,
    },
    /// Set how a group picks.
    SetMethod {
        /// Which group; it may be new.
        group: usize,
        /// How.
        method: Method,
    },
    /// Disable a channel and wait until it has no connection, so many seconds at most (for ever
    /// without). Answered by [`Reply::Left`].
    Drain {
        /// Which one.
        id: ChannelId,
        /// The longest wait.
        seconds: Option<u64>,
    },
    /// End all connections of a channel with a reset. Answered by [`Reply::Left`].
    Drop(ChannelId),
    /// Take other arguments while running: other servers, and other values of the options that can
    /// change ([`Args::can_reload_to`](crate::cli::args::Args::can_reload_to)). What stands is not touched.
    /// Those that are in force already change nothing, also where other commands have changed the
    /// table since. Refused as a whole by [`Reply::Unfit`] or [`Reply::InvalidAddress`].
    Configure {
        /// All arguments of the instance as on its command line, without the program's name.
        words: Vec<String>,
    },
    /// End the program: no new connections, standing ones go on until they end.
    Kill,
    /// What the supervisor knows of its instances. Answered by [`Reply::Instances`]. This and the
    /// following are for supervisors only, and all others for instances only.
    Instances,
    /// Read the configuration file again and change what runs. Answered by [`Reply::Changed`], or by
    /// [`Reply::Wrong`] when nothing or not all of it could be done.
    Reload,
    /// End all instances, each within its grace time, and the supervisor.
    Stop,
    /// The same, and begin anew in the same process.
    Restart,
}

/// Balance's line. Commands without a reply of their own are answered by `Done`, `Already` or
/// what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Who is there.
    Hello {
        /// Process id.
        pid: u32,
        /// The product's version.
        version: String,
    },
    /// Every channel, by group and number.
    Table(Vec<ChannelRow>),
    /// Every live connection, oldest first.
    Sessions(Vec<SessionRow>),
    /// What has been done since the start.
    Stats(Stats),
    /// The channel asked for.
    Channel(ChannelRow),
    /// A channel was added here.
    Created(ChannelId),
    /// Connections that the channel still has (after `Drain`), or had (before `Drop`).
    Left(u32),
    /// Done, and something changed.
    Done,
    /// It was so already.
    Already,
    /// There is no such group.
    NoSuchGroup,
    /// There is no such channel in the group.
    NoSuchChannel,
    /// Only a disabled channel can be assigned.
    NotDisabled,
    /// Too many clients wait for the end of a drain; nothing was changed.
    TooManyDrains,
    /// All instances.
    Instances(Supervised),
    /// What a supervisor has changed, a line each.
    Changed(Vec<String>),
    /// What a supervisor has changed, and what it could not, a line each.
    Partly {
        /// What was changed.
        changed: Vec<String>,
        /// What could not be.
        failed: Vec<String>,
        /// The exit code that goes with that.
        code: u8,
    },
    /// What is wrong, a line each; nothing was changed.
    Wrong(Vec<String>),
    /// The host or port cannot be used; why.
    InvalidAddress(String),
    /// The arguments cannot be taken while the instance runs; why.
    Unfit(String),
    /// The request is not taken at all; why.
    Refused(String),
    /// The request is of another version than ours.
    Mismatch {
        /// [`VERSION`] of the running balance.
        version: u32,
    },
}

/// A channel and its counters, live connections included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRow {
    /// Number of the group.
    pub group: usize,
    /// How the group picks.
    pub method: Method,
    /// Number in the group.
    pub channel: usize,
    /// Whether it takes new connections.
    pub enabled: bool,
    /// The first of its addresses.
    pub address: SocketAddr,
    /// Since when its name does not resolve, in seconds since 1970, if it does not.
    pub unresolved_since: Option<u64>,
    /// Connections now, attempts included.
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

/// What has been done since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// What moves the bytes of new connections.
    pub datapath: String,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Connections at the moment, those that are being ended included.
    pub open: u64,
    /// Clients that were accepted: the sum of those that are open and the following four.
    pub accepted: u64,
    /// Connections that both sides have ended in an orderly way.
    #[serde(default)]
    pub clean: u64,
    /// Connections that did not end in an orderly way.
    pub broken: u64,
    /// Clients that no channel took.
    pub unserved: u64,
    /// Clients that left, or were cut off, before they had a server.
    #[serde(default)]
    pub left: u64,
    /// Lines that the log has lost because it was not read.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// The datapath's own counters, in the order in which they are shown.
    #[serde(default)]
    pub counters: Vec<CounterRow>,
}

/// A counter of a datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// Its name in the output of `stats`.
    pub name: String,
    /// Its value since the start.
    pub value: u64,
    /// What tells apart several counters with one name.
    pub reason: Option<String>,
}

/// A live connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The client's address.
    pub client: SocketAddr,
    /// Where its channel stands, if it still does.
    pub id: Option<ChannelId>,
    /// The server's address, once connected.
    pub backend: Option<SocketAddr>,
    /// Since it was accepted, in milliseconds.
    pub age_ms: u64,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub rcvd: u64,
    /// What moves its bytes, once connected.
    pub datapath: Option<String>,
}

/// What a supervisor knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// Whether it stays in the foreground, as for a service manager.
    pub foreground: bool,
    /// When it began, in nanoseconds of CLOCK_MONOTONIC: another number after a restart.
    pub began: u64,
    /// Whether all instances have been tried.
    pub settled: bool,
    /// Whether it is on its way out.
    pub stopping: bool,
    /// Lines of the file that are wrong, as `FILE:LINE: WHY`.
    pub wrong: Vec<String>,
    /// Every instance, in the order of the file, then those that leave.
    pub instances: Vec<InstanceRow>,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// It does not serve yet.
    Starting,
    /// It serves.
    Running,
    /// It accepts no more, and has connections that have yet to end.
    Draining,
    /// It has no process, and will be tried again.
    Failed,
    /// It has no process.
    Stopped,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

/// An instance of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// Port, and address if it was given.
    pub name: String,
    /// How it is.
    pub state: InstanceState,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it is controlled, as long as it accepts connections.
    pub socket: Option<PathBuf>,
    /// Connections, as it said last.
    pub connections: u64,
    /// What it said last of itself, or why it does not run.
    pub status: String,
}
