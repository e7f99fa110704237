//! Renders a reply as text for people and scripts.
//!
//! Pure. Invariants: the text of a command of the classic is the classic's, to the byte. Every line
//! ends with a newline. No line contains a control character, even if another process made the
//! reply.

use std::fmt;

use super::{json, table};
use crate::control::protocol::{ChannelRow, InstanceReply};
use crate::{error::one_line, selection::Method};

/// The word by which the user named a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelLabel {
    /// A number, or `G.N`.
    Number {
        /// The group, if the user named it.
        group: Option<i64>,
        /// Number in the group.
        channel: i64,
    },
    /// The name of the server.
    Name(String),
}

impl fmt::Display for ChannelLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { group: Some(group), channel } => write!(f, "{group}.{channel}"),
            Self::Number { group: None, channel } => write!(f, "{channel}"),
            Self::Name(name) => f.write_str(&one_line(name)),
        }
    }
}

/// The form in which the reply to a command is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyFormat {
    /// `show`.
    Table,
    /// `show --json`.
    TableJson,
    /// `servers`.
    Servers,
    /// `servers --json`.
    ServersJson,
    /// `sessions`.
    Sessions,
    /// `sessions --json`.
    SessionsJson,
    /// `stats`.
    Stats,
    /// `stats --json`.
    StatsJson,
    /// `enable`.
    Enable(ChannelLabel),
    /// `disable`.
    Disable(ChannelLabel),
    /// `reset`.
    Reset(ChannelLabel),
    /// `create`.
    Create,
    /// `assign`.
    Assign,
    /// `maxc`.
    SetMax {
        /// The channel.
        channel: ChannelLabel,
        /// The new maximum.
        max: u32,
    },
    /// `hash` and `rr`.
    Method {
        /// Number of the group.
        group: usize,
        /// The new method.
        method: Method,
    },
    /// `mrtg-bytes`.
    MrtgBytes,
    /// `mrtg-conns`.
    MrtgConns,
    /// `drain`.
    Drain(ChannelLabel),
    /// `drop`.
    Drop(ChannelLabel),
}

/// The text for a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Whole lines.
    pub text: String,
    /// Whether the command failed. A command without an effect has not failed.
    pub failed: bool,
}

/// Renders the reply of the instance with this `--name` to a command. Returns `None` if the reply
/// does not fit the command.
pub fn render(format: &ReplyFormat, reply: &InstanceReply, name: Option<&str>) -> Option<Rendered> {
    if let Some(text) = failure(format, reply) {
        return Some(Rendered { text: text + "\n", failed: true });
    }
    let line = |text: String| Some(Rendered { text: text + "\n", failed: false });
    let lines = |text: String| Some(Rendered { text, failed: false });
    match (format, reply) {
        (ReplyFormat::Table, InstanceReply::Table(rows)) => lines(table::channels(rows)),
        (ReplyFormat::TableJson, InstanceReply::Table(rows)) => lines(json::channels(name, rows)),
        (ReplyFormat::Servers, InstanceReply::Table(rows)) => lines(table::servers(rows)),
        (ReplyFormat::ServersJson, InstanceReply::Table(rows)) => lines(json::servers(name, rows)),
        (ReplyFormat::SessionsJson, InstanceReply::Sessions(rows)) => {
            lines(json::sessions(name, rows))
        }
        (ReplyFormat::StatsJson, InstanceReply::Stats(stats)) => lines(json::stats(stats)),
        (ReplyFormat::Sessions, InstanceReply::Sessions(rows)) => lines(table::sessions(rows)),
        (ReplyFormat::Stats, InstanceReply::Stats(stats)) => lines(table::stats(stats)),
        (ReplyFormat::Enable(n), InstanceReply::Done) => line(format!("channel {n} enabled")),
        (ReplyFormat::Enable(n), InstanceReply::Already) => {
            line(format!("channel {n} already enabled"))
        }
        (ReplyFormat::Disable(n), InstanceReply::Done) => line(format!("channel {n} disabled")),
        (ReplyFormat::Disable(n), InstanceReply::Already) => {
            line(format!("channel {n} already disabled"))
        }
        (ReplyFormat::Reset(n), InstanceReply::Done | InstanceReply::Already) => {
            line(format!("channel {n} counters reset"))
        }
        (ReplyFormat::Create, InstanceReply::Created(_)) => line("channel created".to_owned()),
        (ReplyFormat::Assign, InstanceReply::Done | InstanceReply::Already) => {
            line("channel reassigned".to_owned())
        }
        (ReplyFormat::SetMax { channel, max }, InstanceReply::Done | InstanceReply::Already) => {
            line(format!("maxc of channel {channel} changed to {max}"))
        }
        (ReplyFormat::Method { group, method }, InstanceReply::Done | InstanceReply::Already) => {
            let method = match method {
                Method::RoundRobin => "round robin",
                Method::Hash => "hash",
            };
            line(format!("group {group} set to {method}"))
        }
        (ReplyFormat::MrtgBytes, InstanceReply::Channel(row)) => {
            lines(graph(row, &row.rcvd.to_string(), &row.sent.to_string()))
        }
        (ReplyFormat::MrtgConns, InstanceReply::Channel(row)) => {
            lines(graph(row, &row.total.to_string(), "UNKNOWN"))
        }
        (ReplyFormat::Drain(n), InstanceReply::Connections(0)) => {
            line(format!("channel {n} drained"))
        }
        (ReplyFormat::Drop(n), InstanceReply::Connections(dropped)) => {
            line(format!("channel {n} dropped {}", connections(*dropped)))
        }
        _ => None,
    }
}

/// Returns the text of a failure, if the reply is one.
fn failure(format: &ReplyFormat, reply: &InstanceReply) -> Option<String> {
    use ReplyFormat::{
        Assign, Create, Disable, Drain, Drop, Enable, MrtgBytes, MrtgConns, Reset, SetMax,
    };
    Some(match (reply, format) {
        (InstanceReply::Refused(reason), _) => one_line(reason),
        (
            InstanceReply::NoSuchGroup | InstanceReply::NoSuchChannel,
            Enable(n) | Disable(n) | Reset(n) | Drain(n) | Drop(n),
        ) => format!("no such channel {n}"),
        (InstanceReply::NoSuchGroup, Create) => "no channel slots available".to_owned(),
        (InstanceReply::NoSuchGroup, ReplyFormat::Method { .. }) => "value out of range".to_owned(),
        (InstanceReply::NoSuchGroup, MrtgBytes | MrtgConns) => "unknown group".to_owned(),
        (InstanceReply::NoSuchChannel, MrtgBytes | MrtgConns)
        | (InstanceReply::NoSuchGroup | InstanceReply::NoSuchChannel, Assign | SetMax { .. }) => {
            "unknown channel".to_owned()
        }
        (
            InstanceReply::AmbiguousName,
            Enable(_)
            | Disable(_)
            | Reset(_)
            | Drain { .. }
            | Drop(_)
            | Assign
            | SetMax { .. }
            | MrtgBytes
            | MrtgConns,
        ) => "several servers have this name, use <group>.<number>".to_owned(),
        (InstanceReply::NameInUse, Create | Assign) => "another server has this name".to_owned(),
        (InstanceReply::NotDisabled, Assign) => {
            "channel must be disabled to assign new address".to_owned()
        }
        // Scripts compare this line. The log of the instance has the reason.
        (InstanceReply::InvalidAddress(_), Assign | Create) => "invalid address".to_owned(),
        (InstanceReply::TooManyDrains, Drain(_)) => {
            "too many drains are waiting, try later".to_owned()
        }
        (InstanceReply::Connections(open @ 1..), Drain(n)) => {
            format!("channel {n} disabled, {} left", connections(*open))
        }
        _ => return None,
    })
}

/// Formats two values, an unknown uptime and a name, for MRTG.
fn graph(row: &ChannelRow, first: &str, second: &str) -> String {
    format!("{first}\n{second}\nUNKNOWN\ngroup {} channel {}\n", row.group, row.channel)
}

fn connections(n: u32) -> String {
    format!("{n} connection{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
