//! A channel: its identity, its server, its limit and its counters.
//!
//! Invariant: a [`ChannelKey`] is never used for a second channel, so it names the same channel
//! however the table changes.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::ServerName;
use crate::error::one_line;

/// The position of a channel in the groups, as the control commands name it.
///
/// The position changes when [`Selector::replace`](super::Selector::replace) changes the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelId {
    /// Index of the group, from 0.
    pub group: usize,
    /// Index in the group, from 0.
    pub channel: usize,
}

/// A channel as a control command names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChannelRef {
    /// By position.
    Id(ChannelId),
    /// By the name of the server.
    Name(String),
}

impl From<ChannelId> for ChannelRef {
    fn from(id: ChannelId) -> Self {
        Self::Id(id)
    }
}

impl fmt::Display for ChannelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(ChannelId { group, channel }) => write!(f, "{group}.{channel}"),
            // A command socket carries any text.
            Self::Name(name) => f.write_str(&one_line(name)),
        }
    }
}

/// The permanent identity of a channel, whatever its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(u64);

/// Source of unique keys.
#[derive(Debug, Default)]
pub(super) struct ChannelKeys(u64);

impl ChannelKeys {
    pub(super) fn next(&mut self) -> ChannelKey {
        self.0 += 1;
        ChannelKey(self.0)
    }
}

/// The host name of a server that is configured by host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName {
    /// Host name for the resolver.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A server with its resolved addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedServer {
    /// At least one address.
    pub addresses: Vec<SocketAddr>,
    /// The host name; `None` if the configuration has an address.
    pub host_name: Option<HostName>,
    /// The parts of the server's name.
    pub name: ServerName,
}

/// A channel with its counters.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Identity of the channel.
    pub key: ChannelKey,
    /// All addresses of the server, best first.
    pub addresses: Arc<[SocketAddr]>,
    /// The host name, which is resolved again from time to time; `None` if the configuration has an
    /// address.
    pub host_name: Option<HostName>,
    /// The parts of the server's name.
    pub(super) name_parts: ServerName,
    /// The name of the server in this instance.
    pub name: Arc<str>,
    /// Time of the first failure since the name last resolved.
    pub unresolved_since: Option<SystemTime>,
    /// Maximum of concurrent connections; 0 means no limit.
    pub max: u32,
    /// Whether the channel takes new connections.
    pub enabled: bool,
    /// Open connections, including attempts.
    pub current: u32,
    /// Attempts so far, including failed ones.
    pub total: u64,
    /// Bytes from clients to the server, of ended connections. After a reset of the counters the
    /// value is wrapped below zero until the connections that were open at the reset have ended.
    pub sent: u64,
    /// Bytes from the server to clients, counted like `sent`.
    pub rcvd: u64,
}

impl Channel {
    /// Makes an enabled channel without connections.
    pub(super) fn new(
        key: ChannelKey,
        ResolvedServer { addresses, host_name, name }: ResolvedServer,
        max: u32,
    ) -> Self {
        Self {
            key,
            addresses: addresses.into(),
            host_name,
            name_parts: name,
            name: "".into(),
            unresolved_since: None,
            max,
            enabled: true,
            current: 0,
            total: 0,
            sent: 0,
            rcvd: 0,
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.enabled && (self.max == 0 || self.current < self.max)
    }
}
