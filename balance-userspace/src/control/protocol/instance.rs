//! Commands that an instance takes, and its replies.
//!
//! Invariant: a command is displayed as a user types it, so a line of the log can be pasted into a
//! shell.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ChannelRow, ControlCommand, ControlReply, SessionRow, Stats};
use crate::{
    error::one_line,
    selection::{ChannelId, ChannelRef, Method},
};

/// A command for an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceCommand {
    /// All channels. Answered by [`InstanceReply::Table`].
    Show,
    /// All live connections. Answered by [`InstanceReply::Sessions`].
    Sessions,
    /// Totals since the start. Answered by [`InstanceReply::Stats`].
    Stats,
    /// One channel, for graphs. Answered by [`InstanceReply::Channel`].
    Channel(ChannelRef),
    /// Let a channel take new connections. Open connections continue.
    Enable(ChannelRef),
    /// Let a channel take no new connections. Open connections continue.
    Disable(ChannelRef),
    /// Set the attempts and bytes of a channel to zero.
    Reset(ChannelRef),
    /// Add a channel, disabled, to a group. Answered by [`InstanceReply::Created`].
    Create {
        /// Number of the group; the group may be new.
        group: usize,
        /// Name or address. A port behind it, as in `host:port`, overrides `port`.
        host: String,
        /// Port or name of a service.
        port: String,
    },
    /// Give a disabled channel another address. Open connections keep their server.
    Assign {
        /// The channel.
        id: ChannelRef,
        /// Name or address.
        host: String,
        /// Port or name of a service.
        port: String,
    },
    /// Set the maximum of a channel's connections. Open connections continue.
    SetMax {
        /// The channel.
        id: ChannelRef,
        /// Connections at a time, 0 for no limit.
        max: u32,
    },
    /// Set how a group selects a channel.
    SetMethod {
        /// Number of the group; the group may be new.
        group: usize,
        /// The method.
        method: Method,
    },
    /// Disable a channel and wait until it has no connection. Answered by
    /// [`InstanceReply::Connections`].
    Drain {
        /// The channel.
        id: ChannelRef,
        /// The longest wait in seconds; none for no limit.
        seconds: Option<u64>,
    },
    /// Reset all connections of a channel. Answered by [`InstanceReply::Connections`].
    Drop(ChannelRef),
    /// Take other arguments while running: other servers, and other values of the options that can
    /// change ([`Args::can_reload_to`](crate::cli::args::Args::can_reload_to)). Open connections
    /// continue. Arguments equal to the active ones change nothing, even when other commands have
    /// changed the table since. The arguments are taken whole, or rejected whole by
    /// [`InstanceReply::Incompatible`] or [`InstanceReply::InvalidAddress`].
    Configure {
        /// All arguments of the instance as on its command line, without the program's name.
        words: Vec<String>,
    },
    /// End the program: accept no new connections; open connections continue until they end.
    Kill,
}

impl ControlCommand for InstanceCommand {
    type Reply = InstanceReply;

    fn has_no_time_limit(&self) -> bool {
        matches!(self, Self::Drain { .. })
    }

    fn is_read_only(&self) -> bool {
        match self {
            Self::Show | Self::Sessions | Self::Stats | Self::Channel(_) => true,
            Self::Enable(_)
            | Self::Disable(_)
            | Self::Reset(_)
            | Self::Create { .. }
            | Self::Assign { .. }
            | Self::SetMax { .. }
            | Self::SetMethod { .. }
            | Self::Drain { .. }
            | Self::Drop(_)
            | Self::Configure { .. }
            | Self::Kill => false,
        }
    }
}

impl fmt::Display for InstanceCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Show => f.write_str("show"),
            Self::Sessions => f.write_str("sessions"),
            Self::Stats => f.write_str("stats"),
            Self::Channel(id) => write!(f, "mrtg-bytes {id}"),
            Self::Enable(id) => write!(f, "enable {id}"),
            Self::Disable(id) => write!(f, "disable {id}"),
            Self::Reset(id) => write!(f, "reset {id}"),
            // A command socket carries any text.
            Self::Create { group, host, port } => {
                write!(f, "group {group}; create {} {}", one_line(host), one_line(port))
            }
            Self::Assign { id, host, port } => {
                write!(f, "assign {id} {} {}", one_line(host), one_line(port))
            }
            Self::SetMax { id, max } => write!(f, "maxc {id} {max}"),
            Self::SetMethod { group, method: Method::Hash } => write!(f, "group {group}; hash"),
            Self::SetMethod { group, method: Method::RoundRobin } => write!(f, "group {group}; rr"),
            Self::Drain { id, seconds: Some(s) } => write!(f, "drain {id} {s}"),
            Self::Drain { id, seconds: None } => write!(f, "drain {id}"),
            Self::Drop(id) => write!(f, "drop {id}"),
            Self::Configure { words } => write!(f, "configure {}", one_line(&words.join(" "))),
            Self::Kill => f.write_str("kill"),
        }
    }
}

/// The reply of an instance. A command without a reply of its own is answered by `Done`, by
/// `Already`, or by an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceReply {
    /// Every channel, by group and number.
    Table(Vec<ChannelRow>),
    /// Every live connection, oldest first.
    Sessions(Vec<SessionRow>),
    /// Totals since the start.
    Stats(Stats),
    /// The requested channel.
    Channel(ChannelRow),
    /// The new channel.
    Created(ChannelId),
    /// Connections that the channel has after `Drain`, or had before `Drop`.
    Connections(u32),
    /// The command has made a change.
    Done,
    /// The command has nothing to change.
    Already,
    /// The group does not exist.
    NoSuchGroup,
    /// The group has no such channel.
    NoSuchChannel,
    /// Several channels have the name.
    AmbiguousName,
    /// Another channel has the given name.
    NameInUse,
    /// Only a disabled channel can be assigned.
    NotDisabled,
    /// Too many clients wait for a drain; nothing was changed.
    TooManyDrains,
    /// The host or port cannot be used; the reason.
    InvalidAddress(String),
    /// The running instance cannot take the arguments; the reason.
    Incompatible(String),
    /// The request is rejected; the reason.
    Refused(String),
}

impl ControlReply for InstanceReply {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_reads_or_changes() {
        let id = || ChannelRef::Id(ChannelId { group: 0, channel: 0 });
        let (host, port) = (String::new, String::new);
        for (command, reads) in [
            (InstanceCommand::Show, true),
            (InstanceCommand::Sessions, true),
            (InstanceCommand::Stats, true),
            (InstanceCommand::Channel(id()), true),
            (InstanceCommand::Enable(id()), false),
            (InstanceCommand::Disable(id()), false),
            (InstanceCommand::Reset(id()), false),
            (InstanceCommand::Create { group: 0, host: host(), port: port() }, false),
            (InstanceCommand::Assign { id: id(), host: host(), port: port() }, false),
            (InstanceCommand::SetMax { id: id(), max: 1 }, false),
            (InstanceCommand::SetMethod { group: 0, method: Method::Hash }, false),
            (InstanceCommand::Drain { id: id(), seconds: Some(0) }, false),
            (InstanceCommand::Drop(id()), false),
            (InstanceCommand::Configure { words: Vec::new() }, false),
            (InstanceCommand::Kill, false),
        ] {
            assert_eq!(command.is_read_only(), reads, "{command}");
        }
    }
}
