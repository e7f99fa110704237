//! The messages between the benchmark and its server and client processes.
//!
//! Invariant: a configuration is one JSON argument, and a report is one JSON line on standard
//! output. The processes share nothing else, except the byte counters of the server.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The direction of a bulk stream, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Direction {
    /// The client sends.
    Up,
    /// The server sends.
    Down,
    /// Both send at the same time.
    Both,
}

impl Direction {
    /// Returns true if the client sends.
    pub(crate) fn up(self) -> bool {
        self != Self::Down
    }

    /// Returns true if the server sends.
    pub(crate) fn down(self) -> bool {
        self != Self::Up
    }
}

/// What the server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Service {
    /// Answers every `size` bytes with `size` bytes.
    Echo {
        /// Bytes of a request and of a response.
        size: usize,
    },
    /// Answers the first `size` bytes with `size` bytes of the value `id`, and closes.
    Answer {
        /// Bytes of a request and of a response.
        size: usize,
        /// Identifies the server.
        id: u8,
    },
    /// Sends and discards bytes without end.
    Bulk(Direction),
    /// Accepts mail by SMTP.
    Mail,
}

/// The configuration of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServerConfig {
    /// What the server does with connections.
    pub(crate) service: Service,
    /// The listening address.
    pub(crate) address: SocketAddr,
    /// The Unix socket that reports the bytes sent and received.
    pub(crate) counters: PathBuf,
    /// Whether connections end with a reset, so that none stays in TIME_WAIT.
    pub(crate) resets: bool,
}

impl ServerConfig {
    /// Makes a configuration without resets, with the files of the server in a directory.
    pub(crate) fn new(service: Service, address: SocketAddr, directory: &Path) -> Self {
        let counters = directory.join(format!("server-{}.counters", address.port()));
        Self { service, address, counters, resets: false }
    }
}

/// The only report of the server: the server listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ServerReady;

/// The load that the client generates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Requests one after the other on each connection.
    Requests {
        /// Number of concurrent connections.
        connections: usize,
        /// Bytes of a request and of a response.
        size: usize,
    },
    /// One connection for each request. The server closes.
    Short {
        /// Number of concurrent connections.
        connections: usize,
        /// Bytes of a request and of a response.
        size: usize,
    },
    /// Like `Short`, with a pause between connections and a [`Progress`] report at intervals.
    Churn {
        /// Number of concurrent connections.
        connections: usize,
        /// Bytes of a request and of a response.
        size: usize,
        /// The pause after each connection.
        pause: Duration,
    },
    /// One SMTP session for each message.
    Mail {
        /// Number of concurrent sessions.
        connections: usize,
        /// Bytes of a message.
        message: usize,
    },
    /// One request on each connection, which then stays idle.
    Hold {
        /// Number of concurrent connections.
        connections: usize,
        /// Bytes of the request and of the response.
        size: usize,
    },
    /// Endless streams.
    Bulk {
        /// Number of concurrent streams.
        streams: usize,
        /// The direction of the bytes.
        direction: Direction,
    },
    /// Connections on which the client reads nothing.
    Stall {
        /// Number of concurrent connections.
        receivers: usize,
    },
}

/// The configuration of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    /// The load to generate.
    pub(crate) load: Load,
    /// The addresses to connect to, round robin.
    pub(crate) targets: Vec<SocketAddr>,
    /// The Unix socket of the byte counters, see [`ServerConfig::counters`].
    pub(crate) counters: PathBuf,
    /// Length of the warm-up.
    pub(crate) warm_up: Duration,
    /// Length of the measuring window.
    pub(crate) window: Duration,
}

/// A report of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ClientReport {
    /// All connections are up and stay idle until the client is stopped.
    Holding {
        /// CPU seconds of the whole system since the first connect.
        cpu: f64,
    },
    /// The progress of a churn load.
    Progress(Progress),
    /// The result of a window; the last report.
    Done(WindowCounts),
}

impl ClientReport {
    /// Returns the kind of the report, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Holding { .. } => "holding",
            Self::Progress(_) => "progress",
            Self::Done(_) => "done",
        }
    }
}

/// Totals of a churn load since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests failed.
    pub(crate) errors: u64,
    /// When the last request failed.
    pub(crate) last_error: Option<Timestamp>,
    /// The longest time to an answer.
    pub(crate) slowest: Duration,
    /// When each server, identified by its id, gave its first answer.
    pub(crate) first_answer: BTreeMap<u8, Timestamp>,
}

/// What the client has counted in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowCounts {
    /// Length of the window.
    pub(crate) seconds: f64,
    /// CPU seconds of the whole system in the window.
    pub(crate) cpu: f64,
    /// Requests, connections or messages completed.
    pub(crate) operations: u64,
    /// Bytes received by the client and the server together; bulk only.
    pub(crate) bytes: u64,
    /// Connections that failed.
    pub(crate) errors: u64,
    /// The error of the first failed connection.
    pub(crate) first_error: Option<String>,
    /// The latency of the operations.
    pub(crate) latency: Option<Latency>,
}

/// Quantiles of the latency, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
    /// The 99.9th percentile.
    pub(crate) p999: f64,
}

/// A point in time, comparable between processes: microseconds of the system clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Timestamp(u64);

impl Timestamp {
    /// Returns the current time.
    pub(crate) fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns the milliseconds since `earlier`, or 0 if `earlier` is later.
    pub(crate) fn millis_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e3
    }
}

/// Writes a report as one line on standard output.
pub(crate) fn send_report<T: Serialize>(report: &T) -> Result<()> {
    let mut line = serde_json::to_vec(report).context("cannot encode a report")?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).context("cannot write a report")
}
