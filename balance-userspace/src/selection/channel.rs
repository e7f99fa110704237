//! A channel: which one it is, where its server is, how many connections it takes, what it has
//! done.
//!
//! Invariant: a [`ChannelKey`] is given to one channel and never again, so whoever holds it means that
//! channel, wherever it stands by now.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Where a channel stands in the selector at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelId {
    /// Number of the group, from 0.
    pub group: usize,
    /// Number in the group, from 0.
    pub channel: usize,
}

/// Which channel, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(u64);

/// Makes each key once.
#[derive(Debug, Default)]
pub(super) struct ChannelKeys(u64);

impl ChannelKeys {
    pub(super) fn next(&mut self) -> ChannelKey {
        self.0 += 1;
        ChannelKey(self.0)
    }
}

/// A server given by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerName {
    /// What the resolver takes.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedServer {
    /// At least one address.
    pub addresses: Vec<SocketAddr>,
    /// Its name, if that is how it was given.
    pub name: Option<ServerName>,
}

/// A server and its counters.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Which channel this is.
    pub key: ChannelKey,
    /// Where to connect: all addresses of its name, best first.
    pub addresses: Arc<[SocketAddr]>,
    /// What is to be resolved again now and then; nothing if it was given as an address.
    pub name: Option<ServerName>,
    /// Since when the name does not resolve, if it does not.
    pub unresolved_since: Option<SystemTime>,
    /// Connections at a time; 0 means no limit.
    pub max: u32,
    /// Whether it takes new connections.
    pub enabled: bool,
    /// Connections that it has now, attempts included.
    pub current: u32,
    /// Attempts so far, failed ones included.
    pub total: u64,
    /// Bytes from clients to it, of ended connections; wraps around after a reset, until the
    /// connections that stood then have ended.
    pub sent: u64,
    /// Bytes from it to clients, likewise.
    pub rcvd: u64,
}

impl Channel {
    /// One that is enabled and idle.
    pub(super) fn new(
        key: ChannelKey,
        ResolvedServer { addresses, name }: ResolvedServer,
        max: u32,
    ) -> Self {
        Self {
            key,
            addresses: addresses.into(),
            name,
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
