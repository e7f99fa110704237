//! What the harness tells its server and its client to do, and what they answer.
//!
//! Invariant: jobs are one JSON argument, answers one JSON line each on standard output, so
//! that both ends agree on nothing else.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Which way the bytes of a bulk stream go, seen from the client.
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
    /// True if the client sends.
    pub(crate) fn up(self) -> bool {
        self != Self::Down
    }

    /// True if the server sends.
    pub(crate) fn down(self) -> bool {
        self != Self::Up
    }
}

/// How the server treats a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Service {
    /// Answers every `size` bytes with as many.
    Echo {
        /// Bytes of a request, and of a response.
        size: usize,
    },
    /// Answers the first `size` bytes with as many, each of them `id`, and closes.
    Answer {
        /// Bytes of a request, and of a response.
        size: usize,
        /// Tells this server from others.
        id: u8,
    },
    /// Sends and discards without end.
    Bulk(Direction),
    /// Takes mail by SMTP.
    Mail,
}

/// The server's job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServerConfig {
    /// How it treats connections.
    pub(crate) service: Service,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The socket where it tells how many bytes it has sent and received.
    pub(crate) counters: PathBuf,
    /// Its connections end with a reset, so that none of them lingers.
    pub(crate) resets: bool,
}

impl ServerConfig {
    /// One whose connections end as they may, with its files in that directory.
    pub(crate) fn new(service: Service, address: SocketAddr, directory: &Path) -> Self {
        let counters = directory.join(format!("server-{}.counters", address.port()));
        Self { service, address, counters, resets: false }
    }
}

/// The server's only answer: it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ServerReady;

/// What the client puts on the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Load {
    /// On each connection one request after the other.
    Requests {
        /// Connections at a time.
        connections: usize,
        /// Bytes of a request, and of a response.
        size: usize,
    },
    /// A connection for each request; the server closes.
    Short {
        /// Connections at a time.
        connections: usize,
        /// Bytes of a request, and of a response.
        size: usize,
    },
    /// The same, each slot pausing between connections, and a [`Progress`] every now and then.
    Churn {
        /// Connections at a time.
        connections: usize,
        /// Bytes of a request, and of a response.
        size: usize,
        /// The pause of a slot after each connection.
        pause: Duration,
    },
    /// An SMTP session for each message.
    Mail {
        /// Connections at a time.
        connections: usize,
        /// Bytes of a message.
        message: usize,
    },
    /// One request on each connection, and then nothing.
    Hold {
        /// Connections at a time.
        connections: usize,
        /// Bytes of the request, and of the response.
        size: usize,
    },
    /// Streams without end.
    Bulk {
        /// Streams at a time.
        streams: usize,
        /// Which way the bytes go.
        direction: Direction,
    },
    /// Connections of which nothing is read.
    Stall {
        /// Connections at a time.
        receivers: usize,
    },
}

/// The client's job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    /// What to put on the peer.
    pub(crate) load: Load,
    /// Where to connect, in turn.
    pub(crate) targets: Vec<SocketAddr>,
    /// [`ServerConfig::counters`].
    pub(crate) counters: PathBuf,
    /// How long to run before measuring.
    pub(crate) warm_up: Duration,
    /// How long to measure.
    pub(crate) window: Duration,
}

/// An answer of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ClientReport {
    /// Connections are up and hold still until the client is stopped.
    Holding {
        /// Whole-system CPU seconds since the first connect.
        cpu: f64,
    },
    /// How a churn goes.
    Progress(Progress),
    /// The last answer after a window.
    Done(WindowCounts),
}

/// All that a churn has seen so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Requests answered.
    pub(crate) done: u64,
    /// Requests not answered.
    pub(crate) errors: u64,
    /// When the last of them failed.
    pub(crate) last_error: Option<Timestamp>,
    /// The slowest answer.
    pub(crate) slowest: Duration,
    /// When each server, by its id, answered for the first time.
    pub(crate) first_answer: BTreeMap<u8, Timestamp>,
}

/// What was counted in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowCounts {
    /// Its length.
    pub(crate) seconds: f64,
    /// Whole-system CPU seconds in it.
    pub(crate) cpu: f64,
    /// Requests, connections or messages done.
    pub(crate) operations: u64,
    /// Bytes received by the client and the server together; bulk only.
    pub(crate) bytes: u64,
    /// Connections that failed.
    pub(crate) errors: u64,
    /// What the first of them suffered from.
    pub(crate) first_error: Option<String>,
    /// How long operations took.
    pub(crate) latency: Option<Latency>,
}

/// Quantiles of the time that an operation took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Half of them took at most this long.
    pub(crate) p50: f64,
    /// 99 % did.
    pub(crate) p99: f64,
    /// 99.9 % did.
    pub(crate) p999: f64,
}

/// A point in time that processes of this machine agree on: microseconds of the system clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Timestamp(u64);

impl Timestamp {
    /// Right now.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since `earlier`, 0 if that is later.
    pub(crate) fn millis_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e3
    }
}

/// Writes an answer as a line on standard output.
pub(crate) fn send_report<T: Serialize>(report: &T) -> Result<()> {
    let mut line = serde_json::to_vec(report).context("cannot encode an answer")?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).context("cannot write an answer")
}
