//! The report of a health check: one line as of a monitoring plugin, or JSON.
//!
//! Pure. Invariant: the line has one `|`, before the performance data, or none.

use std::fmt::Write as _;

use serde::Serialize;

use super::verdict::{self, Figures, ListenerState, Observation, Reason, Status, Unusable};
use crate::{error::one_line, service::output::plural};

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;

/// The most reasons in the line. Some agents cut long lines off.
const MAX_REASONS: usize = 10;

impl Status {
    /// The exit code of monitoring plugins.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The line when nothing can be observed.
pub(super) fn unknown_line(why: &str) -> String {
    format!("BALANCE UNKNOWN - {}", plain(why))
}

/// The line.
pub(super) fn line(seen: &Observation, reasons: &[Reason]) -> String {
    let mut text = format!("BALANCE {} - ", verdict::status(reasons).word());
    if !reasons.is_empty() {
        let shown: Vec<_> = reasons.iter().take(MAX_REASONS).map(|it| plain(&it.text)).collect();
        text += &shown.join("; ");
        if let more @ 1.. = reasons.len().saturating_sub(MAX_REASONS) {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {more} more");
        }
    }
    if seen.listeners.is_empty() {
        return if reasons.is_empty() { text + "no listeners" } else { text };
    }
    if !reasons.is_empty() {
        text += "; ";
    }
    let figures = || seen.listeners.iter().filter_map(|listener| listener.figures.as_ref());
    let usable: usize = figures().map(Figures::usable).sum();
    let servers: usize = figures().map(|figures| figures.servers.len()).sum();
    let listeners = plural(seen.listeners.len(), "listener");
    let _ = write!(text, "{listeners}, {usable} of {} usable", plural(servers, "server"));
    text + " | " + &performance(seen)
}

/// The performance data: values with the limits for a warning and for CRITICAL, minimum and maximum.
fn performance(seen: &Observation) -> String {
    let running = seen.listeners.iter().filter_map(|listener| {
        let figures = listener.figures.as_ref()?;
        Some((label(&listener.name), figures))
    });
    let running: Vec<_> = running.collect();
    let open: u64 = running.iter().map(|(_, figures)| figures.load.open).sum();
    running.iter().fold(format!("connections={open};;;0"), |mut text, (name, figures)| {
        let load = figures.load;
        let _ = match load.limit {
            0 => write!(text, " '{name} connections'={};;;0", load.open),
            max => write!(
                text,
                " '{name} connections'={};{};{max};0;{max}",
                load.open,
                load.highest_ok()
            ),
        };
        let (usable, all) = (figures.usable(), figures.servers.len());
        let _ = write!(text, " '{name} servers'={usable};{all}:;1:;0;{all}");
        text
    })
}

/// A name inside a label of performance data.
fn label(name: &str) -> String {
    plain(name).replace(['\'', '='], "_")
}

/// Text without a character that has a meaning in the line.
fn plain(text: &str) -> String {
    one_line(text).replace('|', "/")
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    status: Status,
    reasons: Vec<&'a str>,
    listeners: Vec<Listener<'a>>,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    state: &'static str,
    reasons: Vec<&'a str>,
    address: Option<&'a str>,
    pid: Option<u32>,
    connections: Option<u64>,
    max_connections: Option<u64>,
    servers: Option<Vec<Server<'a>>>,
}

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    group: usize,
    channel: usize,
    usable: bool,
    reason: Option<Unusable>,
    connections: u32,
    max: Option<u32>,
}

/// The JSON form when nothing can be observed.
pub(super) fn unknown_json(why: &str) -> String {
    format(&Report {
        version: JSON_VERSION,
        status: Status::Unknown,
        reasons: vec![why],
        listeners: Vec::new(),
    })
}

/// The JSON form.
pub(super) fn json(seen: &Observation, reasons: &[Reason]) -> String {
    let listeners = seen.listeners.iter().enumerate().map(|(number, listener)| {
        let own = reasons.iter().filter(|reason| reason.listener == Some(number));
        let figures = listener.figures.as_ref();
        Listener {
            name: &listener.name,
            state: match listener.state {
                ListenerState::Running => "running",
                ListenerState::NotServed(state, _) => state,
                ListenerState::Unreadable(_) => "unknown",
            },
            reasons: own.map(|reason| reason.text.as_str()).collect(),
            address: figures.and_then(|figures| figures.address.as_deref()),
            pid: figures.and_then(|figures| Some(figures.process?.0)),
            connections: figures.map(|figures| figures.load.open),
            max_connections: figures.map(|figures| figures.load.limit).filter(|&max| max > 0),
            servers: figures.map(|figures| figures.servers.iter().map(server).collect()),
        }
    });
    format(&Report {
        version: JSON_VERSION,
        status: verdict::status(reasons),
        reasons: reasons.iter().map(|reason| reason.text.as_str()).collect(),
        listeners: listeners.collect(),
    })
}

fn server(server: &verdict::Server) -> Server<'_> {
    Server {
        name: &server.name,
        group: server.group,
        channel: server.channel,
        usable: server.unusable.is_none(),
        reason: server.unusable,
        connections: server.connections,
        max: Some(server.max).filter(|&max| max > 0),
    }
}

fn format(report: &Report<'_>) -> String {
    serde_json::to_string_pretty(report).expect("all fields have a JSON form")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
