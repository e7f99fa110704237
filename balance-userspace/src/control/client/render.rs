//! A reply → text for people and scripts.
//!
//! Pure. Invariant: every line of a classic command is the classic's, to the byte; each line ends
//! with a newline, and nothing in it moves a terminal, whoever has sent the reply.

use std::fmt;

use super::table;
use crate::control::protocol::InstanceReply;
use crate::{
    error::one_line,
    selection::{ChannelId, Method},
};

/// A channel as the user named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLabel {
    /// The group, if it was named.
    pub group: Option<i64>,
    /// The number.
    pub channel: i64,
}

impl fmt::Display for ChannelLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            Some(group) => write!(f, "{group}.{}", self.channel),
            None => write!(f, "{}", self.channel),
        }
    }
}

/// How to show the reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyFormat {
    /// `show`.
    Table,
    /// `show --json`.
    TableJson,
    /// `sessions`.
    Sessions,
    /// `stats`.
    Stats,
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
        /// Which one.
        channel: ChannelLabel,
        /// Its new maximum.
        max: u32,
    },
    /// `hash` and `rr`.
    Method {
        /// Which group.
        group: usize,
        /// Its new method.
        method: Method,
    },
    /// `mrtg-bytes`.
    MrtgBytes(ChannelId),
    /// `mrtg-conns`.
    MrtgConns(ChannelId),
    /// `drain`.
    Drain(ChannelLabel),
    /// `drop`.
    Drop(ChannelLabel),
}

/// What to print, and whether the command did what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Whole lines.
    pub text: String,
    /// Whether it failed; asking for what is so already is no failure.
    pub failed: bool,
}

/// Renders the reply to a command; `None` if it is no answer to that command.
pub fn render(format: &ReplyFormat, reply: &InstanceReply) -> Option<Rendered> {
    if let Some(text) = failure(format, reply) {
        return Some(Rendered { text: text + "\n", failed: true });
    }
    let line = |text: String| Some(Rendered { text: text + "\n", failed: false });
    let whole = |text: String| Some(Rendered { text, failed: false });
    match (format, reply) {
        (ReplyFormat::Table, InstanceReply::Table(rows)) => whole(table::channels(rows)),
        (ReplyFormat::TableJson, InstanceReply::Table(rows)) => whole(table::channels_json(rows)),
        (ReplyFormat::Sessions, InstanceReply::Sessions(rows)) => whole(table::sessions(rows)),
        (ReplyFormat::Stats, InstanceReply::Stats(stats)) => whole(table::stats(stats)),
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
        (ReplyFormat::MrtgBytes(id), InstanceReply::Channel(row)) => {
            whole(graph(*id, &row.rcvd.to_string(), &row.sent.to_string()))
        }
        (ReplyFormat::MrtgConns(id), InstanceReply::Channel(row)) => {
            whole(graph(*id, &row.total.to_string(), "UNKNOWN"))
        }
        (ReplyFormat::Drain(n), InstanceReply::Connections(0)) => {
            line(format!("channel {n} drained"))
        }
        (ReplyFormat::Drop(n), InstanceReply::Connections(had)) => {
            line(format!("channel {n} dropped {}", connections(*had)))
        }
        _ => None,
    }
}

/// What went wrong, if the reply says that.
fn failure(format: &ReplyFormat, reply: &InstanceReply) -> Option<String> {
    use ReplyFormat::{
        Assign, Create, Disable, Drain, Drop, Enable, MrtgBytes, MrtgConns, Reset, SetMax,
    };
    Some(match (reply, format) {
        (InstanceReply::Refused(why), _) => one_line(why),
        (
            InstanceReply::NoSuchGroup | InstanceReply::NoSuchChannel,
            Enable(n) | Disable(n) | Reset(n) | Drain(n) | Drop(n),
        ) => format!("no such channel {n}"),
        (InstanceReply::NoSuchGroup, Create) => "no channel slots available".to_owned(),
        (InstanceReply::NoSuchGroup, ReplyFormat::Method { .. }) => "value out of range".to_owned(),
        (InstanceReply::NoSuchGroup, MrtgBytes(_) | MrtgConns(_)) => "unknown group".to_owned(),
        (InstanceReply::NoSuchChannel, MrtgBytes(_) | MrtgConns(_))
        | (InstanceReply::NoSuchGroup | InstanceReply::NoSuchChannel, Assign | SetMax { .. }) => {
            "unknown channel".to_owned()
        }
        (InstanceReply::NotDisabled, Assign) => {
            "channel must be disabled to assign new address".to_owned()
        }
        // Why is in the log of the running balance; scripts compare this line.
        (InstanceReply::InvalidAddress(_), Assign | Create) => "invalid address".to_owned(),
        (InstanceReply::TooManyDrains, Drain(_)) => {
            "too many drains are waiting, try later".to_owned()
        }
        (InstanceReply::Connections(left @ 1..), Drain(n)) => {
            format!("channel {n} disabled, {} left", connections(*left))
        }
        _ => return None,
    })
}

/// Two values, the unknown uptime and a name, as MRTG reads them.
fn graph(id: ChannelId, first: &str, second: &str) -> String {
    format!("{first}\n{second}\nUNKNOWN\ngroup {} channel {}\n", id.group, id.channel)
}

fn connections(n: u32) -> String {
    format!("{n} connection{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
