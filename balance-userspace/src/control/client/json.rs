//! JSON for programs: channels, servers, connections, totals.
//!
//! Pure. Invariant: each output is one object with a `version`, which rises when a reader would
//! misread the output. New fields do not raise the version.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::table;
use crate::control::protocol::{ChannelRow, CounterRow, SessionRow, Stats};
use crate::{error::one_line, selection::Method};

/// Version of every output.
pub(crate) const VERSION: u32 = 1;

/// An output with its version.
#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

fn format(content: impl Serialize) -> String {
    let json = Versioned { version: VERSION, content };
    serde_json::to_string_pretty(&json).expect("JSON can represent every field") + "\n"
}

#[derive(Serialize)]
struct Channels {
    name: Option<String>,
    channels: Vec<Channel>,
}

#[derive(Serialize)]
struct Channel {
    group: usize,
    channel: usize,
    name: String,
    method: Method,
    enabled: bool,
    address: IpAddr,
    port: u16,
    unresolved_since: Option<u64>,
    current: u32,
    total: u64,
    max: u32,
    sent: u64,
    rcvd: u64,
}

/// The output of `show --json`. `name` is the name of the instance.
pub(super) fn channels(name: Option<&str>, rows: &[ChannelRow]) -> String {
    let channel = |row: &ChannelRow| Channel {
        group: row.group,
        channel: row.channel,
        name: one_line(&row.name),
        method: row.method,
        enabled: row.enabled,
        address: row.address.ip(),
        port: row.address.port(),
        unresolved_since: row.unresolved_since,
        current: row.current,
        total: row.total,
        max: row.max,
        sent: row.sent,
        rcvd: row.rcvd,
    };
    format(Channels { name: name.map(one_line), channels: rows.iter().map(channel).collect() })
}

#[derive(Serialize)]
struct Servers {
    name: Option<String>,
    servers: Vec<Server>,
}

#[derive(Serialize)]
struct Server {
    name: String,
    group: usize,
    channel: usize,
    address: SocketAddr,
    state: &'static str,
    connections: u32,
    total: u64,
    max: Option<u32>,
    sent: u64,
    rcvd: u64,
}

/// The output of `servers --json`. `name` is the name of the instance.
pub(super) fn servers(name: Option<&str>, rows: &[ChannelRow]) -> String {
    let server = |row: &ChannelRow| Server {
        name: one_line(&row.name),
        group: row.group,
        channel: row.channel,
        address: row.address,
        state: table::state(row),
        connections: row.current,
        total: row.total,
        max: Some(row.max).filter(|&max| max > 0),
        sent: row.sent,
        rcvd: row.rcvd,
    };
    format(Servers { name: name.map(one_line), servers: rows.iter().map(server).collect() })
}

#[derive(Serialize)]
struct Sessions {
    name: Option<String>,
    sessions: Vec<Session>,
}

#[derive(Serialize)]
struct Session {
    client: SocketAddr,
    group: Option<usize>,
    channel: Option<usize>,
    server_name: Option<String>,
    source: Option<SocketAddr>,
    server: Option<SocketAddr>,
    age_ms: u64,
    sent: u64,
    rcvd: u64,
    datapath: Option<String>,
}

/// The output of `sessions --json`. `name` is the name of the instance.
pub(super) fn sessions(name: Option<&str>, rows: &[SessionRow]) -> String {
    let session = |row: &SessionRow| Session {
        client: row.client,
        group: row.id.map(|id| id.group),
        channel: row.id.map(|id| id.channel),
        server_name: row.server.as_deref().map(one_line),
        source: row.source,
        server: row.backend,
        age_ms: row.age_ms,
        sent: row.sent,
        rcvd: row.rcvd,
        datapath: row.datapath.as_deref().map(one_line),
    };
    format(Sessions { name: name.map(one_line), sessions: rows.iter().map(session).collect() })
}

#[derive(Serialize)]
struct Totals {
    name: Option<String>,
    listener: Option<SocketAddr>,
    datapath: String,
    accepted: u64,
    open: u64,
    ended_in_order: u64,
    broken: u64,
    unserved: u64,
    left_before_served: u64,
    log_lines_lost: u64,
    counters: Vec<Counter>,
}

#[derive(Serialize)]
struct Counter {
    name: String,
    value: u64,
    reason: Option<String>,
}

/// The output of `stats --json`.
pub(super) fn stats(stats: &Stats) -> String {
    let counter = |row: &CounterRow| Counter {
        name: one_line(&row.name),
        value: row.value,
        reason: row.reason.as_deref().map(one_line),
    };
    format(Totals {
        name: stats.name.as_deref().map(one_line),
        listener: stats.address,
        datapath: one_line(&stats.datapath),
        accepted: stats.accepted,
        open: stats.open,
        ended_in_order: stats.clean,
        broken: stats.broken,
        unserved: stats.unserved,
        left_before_served: stats.left,
        log_lines_lost: stats.log_lines_lost,
        counters: stats.counters.iter().map(counter).collect(),
    })
}
