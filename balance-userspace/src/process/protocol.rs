//! Messages between a supervisor and a server process.
//!
//! Invariant: a message names an instance by the number that its supervisor has given it. A number
//! is never used twice in one server process.

use std::{env, path::PathBuf};

use clap::Parser as _;
use serde::{Deserialize, Serialize};

use crate::{
    cli::args::{Args, LogFormat},
    error::StartError,
    logging::Sink,
    selection::Differences,
};

/// The first argument of a server process.
pub const COMMAND: &str = "server-process";

/// The environment variable that carries the [`SpawnConfig`] as JSON.
pub(crate) const VARIABLE: &str = "BALANCE_SUPERVISED";

/// The settings of a server process, which hold for all its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnConfig {
    /// The arguments of an instance, for the options that belong to the process.
    pub words: Vec<String>,
    /// The configuration file, for ps(1).
    pub file: PathBuf,
    /// The number of instances to expect.
    pub instances: usize,
    /// The number of their listeners.
    pub listeners: usize,
    /// The most connections of all instances together; none if an instance has no limit.
    pub max_connections: Option<usize>,
    /// Log to syslog.
    pub background: bool,
    /// Write the foreground log as JSON.
    pub json: bool,
}

impl SpawnConfig {
    /// Reads the command line and the environment of this process; `None` if no supervisor started
    /// it.
    ///
    /// # Errors
    /// [`StartError::Usage`] when the value is malformed.
    pub fn from_env() -> Result<Option<Self>, StartError> {
        let is_server_process = env::args_os().nth(1).is_some_and(|word| word == COMMAND);
        let text = env::var_os(VARIABLE).filter(|_| is_server_process);
        // Text that is not UTF-8 is not JSON either.
        text.map(|text| Self::parse(&text.to_string_lossy())).transpose()
    }

    /// Parses the value of the variable.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        serde_json::from_str(text)
            .map_err(|why| StartError::Usage(format!("{VARIABLE} is malformed: {why}")))
    }

    /// Formats the value of the variable.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("all fields have a JSON form")
    }

    /// The arguments that hold for the process.
    ///
    /// # Errors
    /// [`StartError::Usage`] when the words are no arguments of an instance.
    pub(crate) fn args(&self) -> Result<Args, StartError> {
        let words = std::iter::once("balance").chain(self.words.iter().map(String::as_str));
        Args::try_parse_from(words)
            .map_err(|_| StartError::Usage(format!("{VARIABLE} has no arguments of an instance")))
    }

    /// The destination of the log.
    pub(crate) fn sink(&self) -> Sink {
        if self.background { Sink::Background } else { Sink::Foreground }
    }

    /// The format of the log: JSON if the supervisor or the instances ask for it.
    pub(crate) fn log_format(&self, own: LogFormat) -> LogFormat {
        if self.json { LogFormat::Json } else { own }
    }
}

/// An instance as its supervisor describes it: a line of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceLine {
    /// The file of the line.
    pub(crate) file: PathBuf,
    /// Number of the line in the file, from 1.
    pub(crate) number: usize,
    /// Number of the line among the lines of all files.
    pub(crate) ordinal: usize,
    /// The listening port.
    pub(crate) port: u16,
    /// The listening address as written.
    pub(crate) bind: Option<String>,
    /// The arguments without the program name.
    pub(crate) words: Vec<String>,
}

/// A request of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// The sender supervises the process from now on. Its takeover socket comes with the message:
    /// there the process waits for another supervisor when this one has ended. Answered by
    /// [`Event::Supervised`].
    Supervise,
    /// Serve an instance. Its listeners and then its control socket come with the message. Answered
    /// by [`Event::Served`] or [`Event::Failed`].
    Serve {
        id: u64,
        line: InstanceLine,
        /// The number of listeners.
        listeners: usize,
        /// Clients may have connected already.
        may_have_clients: bool,
    },
    /// Give an instance other arguments. Answered by [`Event::Configured`].
    Configure { id: u64, line: InstanceLine },
    /// Stop accepting for an instance; its connections continue. Answered by [`Event::Released`].
    Remove { id: u64 },
    /// Stop accepting for all instances, and end with the last connection. Answered by
    /// [`Event::Released`] for each.
    Drain,
    /// Compare all instances with their lines. Answered by [`Event::Differences`].
    Differences,
    /// Reply by [`Event::Pong`] once every worker has replied.
    Ping,
}

/// A message of the server process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The process has a supervisor. The listeners and then the control socket of each instance
    /// come with the message.
    Supervised {
        /// The version of the program.
        version: String,
        pid: u32,
        config: SpawnConfig,
        /// The process accepts for no instance.
        is_draining: bool,
        instances: Vec<SupervisedInstance>,
    },
    /// The instance serves.
    Served { id: u64 },
    /// The instance cannot serve.
    Failed { id: u64, reason: String, exit_code: u8 },
    /// The outcome of [`Request::Configure`].
    Configured { id: u64, outcome: Configured },
    /// The instance no longer accepts. `by_command` says that a control command stopped it.
    Released { id: u64, by_command: bool },
    /// The last connection of the instance has ended.
    Ended { id: u64 },
    /// The state of the process: sent whenever it changes, at most once a second.
    Status { open: u64, instances: Vec<InstanceStatus> },
    /// The reply to [`Request::Differences`]: the instances that differ from their lines.
    Differences { instances: Vec<(u64, Differences)> },
    /// The process cannot start.
    CannotStart { reason: String, exit_code: u8 },
    /// The reply to [`Request::Ping`].
    Pong,
}

/// An instance of a process that another supervisor has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisedInstance {
    pub(crate) id: u64,
    pub(crate) line: InstanceLine,
    /// The number of listeners; 0 if the instance has stopped accepting. It then has no control
    /// socket either.
    pub(crate) listeners: usize,
}

/// The outcome of a reconfiguration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Configured {
    /// The instance has the arguments.
    Done,
    /// A name does not resolve; the reason. The instance keeps its arguments.
    Unresolved(String),
    /// The instance cannot take the arguments while it runs.
    Incompatible,
}

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    pub(crate) id: u64,
    /// The name (`--name`).
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Open connections.
    pub(crate) open: u64,
    /// A line for people.
    pub(crate) text: String,
}
