//! A reply → text for people and scripts.
//!
//! Pure. Invariant: every line of a classic command is the classic's, to the byte; each line ends
//! with a newline, and nothing in it moves a terminal, whoever has sent the reply.

use std::fmt;

use super::table;
use crate::control::protocol::Reply;
use crate::{
    error::one_line,
    selection::{ChannelId, Method},
};

/// A channel as the user named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The group, if it was named.
    pub group: Option<i64>,
    /// The number.
    pub channel: i64,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            Some(group) => write!(f, "{group}.{}", self.channel),
            None => write!(f, "{}", self.channel),
        }
    }
}

/// How to show the reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Render {
    /// `show`.
    Table,
    /// `show --json`.
    TableJson,
    /// `sessions`.
    Sessions,
    /// `stats`.
    Stats,
    /// `enable`.
    Enable(Label),
    /// `disable`.
    Disable(Label),
    /// `reset`.
    Reset(Label),
    /// `create`.
    Create,
    /// `assign`.
    Assign,
    /// `maxc`.
    SetMax {
        /// Which one.
        channel: Label,
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
    Drain(Label),
    /// `drop`.
    Drop(Label),
}

/// What to print, and whether the command did what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whole lines.
    pub text: String,
    /// Whether it failed; asking for what is so already is no failure.
    pub failed: bool,
}

/// Renders the reply to a command; `None` if it is no answer to that command.
pub fn answer(render: &Render, reply: &Reply) -> Option<Answer> {
    if let Some(text) = failure(render, reply) {
        return Some(Answer { text: text + "\n", failed: true });
    }
    let line = |text: String| Some(Answer { text: text + "\n", failed: false });
    let whole = |text: String| Some(Answer { text, failed: false });
    match (render, reply) {
        (Render::Table, Reply::Table(rows)) => whole(table::channels(rows)),
        (Render::TableJson, Reply::Table(rows)) => whole(table::channels_json(rows)),
        (Render::Sessions, Reply::Sessions(rows)) => whole(table::sessions(rows)),
        (Render::Stats, Reply::Stats(stats)) => whole(table::stats(stats)),
        (Render::Enable(n), Reply::Done) => line(format!("channel {n} enabled")),
        (Render::Enable(n), Reply::Already) => line(format!("channel {n} already enabled")),
        (Render::Disable(n), Reply::Done) => line(format!("channel {n} disabled")),
        (Render::Disable(n), Reply::Already) => line(format!("channel {n} already disabled")),
        (Render::Reset(n), Reply::Done | Reply::Already) => {
            line(format!("channel {n} counters reset"))
        }
        (Render::Create, Reply::Created(_)) => line("channel created".to_owned()),
        (Render::Assign, Reply::Done | Reply::Already) => line("channel reassigned".to_owned()),
        (Render::SetMax { channel, max }, Reply::Done | Reply::Already) => {
            line(format!("maxc of channel {channel} changed to {max}"))
        }
        (Render::Method { group, method }, Reply::Done | Reply::Already) => {
            let method = match method {
                Method::RoundRobin => "round robin",
                Method::Hash => "hash",
            };
            line(format!("group {group} set to {method}"))
        }
        (Render::MrtgBytes(id), Reply::Channel(row)) => {
            whole(graph(*id, &row.rcvd.to_string(), &row.sent.to_string()))
        }
        (Render::MrtgConns(id), Reply::Channel(row)) => {
            whole(graph(*id, &row.total.to_string(), "UNKNOWN"))
        }
        (Render::Drain(n), Reply::Left(0)) => line(format!("channel {n} drained")),
        (Render::Drop(n), Reply::Left(had)) => {
            line(format!("channel {n} dropped {}", connections(*had)))
        }
        _ => None,
    }
}

/// What went wrong, if the reply says that.
fn failure(render: &Render, reply: &Reply) -> Option<String> {
    use Render::{
        Assign, Create, Disable, Drain, Drop, Enable, MrtgBytes, MrtgConns, Reset, SetMax,
    };
    Some(match (reply, render) {
        (Reply::Refused(why), _) => one_line(why),
        (
            Reply::NoSuchGroup | Reply::NoSuchChannel,
            Enable(n) | Disable(n) | Reset(n) | Drain(n) | Drop(n),
        ) => format!("no such channel {n}"),
        (Reply::NoSuchGroup, Create) => "no channel slots available".to_owned(),
        (Reply::NoSuchGroup, Render::Method { .. }) => "value out of range".to_owned(),
        (Reply::NoSuchGroup, MrtgBytes(_) | MrtgConns(_)) => "unknown group".to_owned(),
        (Reply::NoSuchChannel, MrtgBytes(_) | MrtgConns(_))
        | (Reply::NoSuchGroup | Reply::NoSuchChannel, Assign | SetMax { .. }) => {
            "unknown channel".to_owned()
        }
        (Reply::NotDisabled, Assign) => "channel must be disabled to assign new address".to_owned(),
        // Why is in the log of the running balance; scripts compare this line.
        (Reply::InvalidAddress(_), Assign | Create) => "invalid address".to_owned(),
        (Reply::TooManyDrains, Drain(_)) => "too many drains are waiting, try later".to_owned(),
        (Reply::Left(left @ 1..), Drain(n)) => {
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
