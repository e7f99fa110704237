//! Which channel a client gets: groups in order, channels in turn or by hash, failover.
//!
//! Pure: no I/O, no clock. The driver asks for an [`Attempt`], tries it and says how it went.
//! Invariants: the connections of a channel never exceed its maximum; no channel is tried
//! twice for one client; every attempt is given back exactly once (by [`Selector::failed`] or
//! [`Selector::ended`]), so that the counters always add up.

mod change;
mod hash;
#[cfg(test)]
mod properties;

use std::{net::SocketAddr, sync::Arc};

pub use change::{Changed, MAX_GROUPS, Refused};
pub use hash::client_hash;
use serde::{Deserialize, Serialize};

pub use crate::operand::Method;

/// A server's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelId {
    /// Number of the group, from 0.
    pub group: usize,
    /// Number in the group, from 0.
    pub channel: usize,
}

/// A server given by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What the resolver takes.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// At least one address.
    pub addresses: Vec<SocketAddr>,
    /// Its name, if that is how it was given.
    pub name: Option<Name>,
}

/// A server and its counters.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Where to connect: all addresses of its name, best first.
    pub addresses: Arc<[SocketAddr]>,
    /// What is to be resolved again now and then; nothing if it was given as an address.
    pub name: Option<Name>,
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
    /// A channel to this server that is enabled and idle.
    pub fn at(Location { addresses, name }: Location, max: u32) -> Self {
        Self { name, ..Self::new(addresses, max) }
    }

    /// A channel that is enabled and idle.
    pub fn new(addresses: impl Into<Arc<[SocketAddr]>>, max: u32) -> Self {
        Self {
            addresses: addresses.into(),
            name: None,
            max,
            enabled: true,
            current: 0,
            total: 0,
            sent: 0,
            rcvd: 0,
        }
    }

    fn usable(&self) -> bool {
        self.enabled && (self.max == 0 || self.current < self.max)
    }
}

/// Channels that stand in for each other.
#[derive(Clone, Debug)]
pub struct Group {
    /// How it picks.
    pub method: Method,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// Whose turn it is.
    next: usize,
}

impl Group {
    /// A group whose first channel is next.
    pub fn new(method: Method, channels: Vec<Channel>) -> Self {
        Self { method, channels, next: 0 }
    }

    /// The channel for a client that has tried those in `tried` already, and moves the turn on
    /// behind it; when there is none the turn goes back to the start.
    fn pick(&mut self, client: u32, tried: &[usize], policy: Policy) -> Option<usize> {
        let n = self.channels.len();
        if n == 0 {
            return None;
        }
        let usable = |i: &usize| self.channels[*i].usable() && !tried.contains(i);
        let from = |start: usize| (0..n).map(move |step| (start + step) % n);
        let hashed = client as usize % n;
        let found = match self.method {
            Method::RoundRobin => from(self.next).find(usable),
            Method::Hash if policy.hash_failover => from(hashed).find(usable),
            Method::Hash => Some(hashed).filter(usable),
        };
        self.next = found.map_or(0, |i| (i + 1) % n);
        found
    }
}

/// A connect to be made for a client. Counted in its channel until it is given back.
#[derive(Debug)]
#[must_use = "an attempt stays counted in its channel until it is given back"]
pub struct Attempt {
    /// The channel to try.
    pub id: ChannelId,
    /// Where to connect.
    pub addresses: Arc<[SocketAddr]>,
    client: u32,
    /// Channels of this group that have failed for this client.
    tried: Vec<usize>,
}

/// Choices of the command line that selection follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// `-H`: in a hash group the next usable channel stands in for the client's own.
    pub hash_failover: bool,
    /// `-a`: a failed connect disables the channel.
    pub autodisable: bool,
}

/// The groups of one listener.
#[derive(Debug, Default)]
pub struct Selector {
    groups: Vec<Group>,
    policy: Policy,
}

impl Selector {
    /// Starts with these groups, first one first.
    pub fn new(groups: Vec<Group>) -> Self {
        Self { groups, policy: Policy::default() }
    }

    /// The same with other choices.
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The groups as they stand.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The first channel for a client, whose address hashes to `client`; `None` if none is usable.
    pub fn first(&mut self, client: u32) -> Option<Attempt> {
        self.search(0, client, Vec::new())
    }

    /// The connect failed: the next channel for the same client, in the same group while one
    /// is left that it has not tried, then in the groups after it.
    pub fn failed(&mut self, attempt: Attempt) -> Option<Attempt> {
        let autodisable = self.policy.autodisable;
        let channel = self.release(attempt.id);
        channel.enabled &= !autodisable;
        let Attempt { id, client, mut tried, .. } = attempt;
        tried.push(id.channel);
        self.search(id.group, client, tried)
    }

    /// The connection is over, after `sent` bytes to the channel and `rcvd` bytes from it.
    pub fn ended(&mut self, attempt: Attempt, sent: u64, rcvd: u64) {
        let channel = self.release(attempt.id);
        channel.sent = channel.sent.wrapping_add(sent);
        channel.rcvd = channel.rcvd.wrapping_add(rcvd);
    }

    fn search(&mut self, group: usize, client: u32, mut tried: Vec<usize>) -> Option<Attempt> {
        let policy = self.policy;
        for (number, group) in self.groups.iter_mut().enumerate().skip(group) {
            if let Some(i) = group.pick(client, &tried, policy) {
                let channel = &mut group.channels[i];
                channel.current += 1;
                channel.total += 1;
                let id = ChannelId { group: number, channel: i };
                return Some(Attempt {
                    id,
                    addresses: Arc::clone(&channel.addresses),
                    client,
                    tried,
                });
            }
            tried.clear();
        }
        None
    }

    fn release(&mut self, id: ChannelId) -> &mut Channel {
        let channel = &mut self.groups[id.group].channels[id.channel];
        debug_assert!(channel.current > 0, "{id:?} given back more often than taken");
        channel.current -= 1;
        channel
    }
}
