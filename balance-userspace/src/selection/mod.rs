//! Which channel a client gets: groups in order, channels in turn or by hash, failover.
//!
//! Pure: no I/O, no clock. The driver asks for an [`Attempt`], tries it and says how it went.
//! Invariants: the connections of a channel never exceed its maximum; no channel is tried
//! twice for one client, except when all others have failed one for which there was no local port; every
//! attempt is given back exactly once (by [`Selector::connect_failed`] or
//! [`Selector::end`]), so that the counters always add up.

mod change;
mod channel;
mod hash;
mod method;
#[cfg(test)]
mod properties;
mod replace;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

pub use change::{ChangeError, Effect, MAX_GROUPS};
use channel::ChannelKeys;
pub use channel::{Channel, ChannelId, ChannelKey, ResolvedServer, ServerName};
pub use hash::client_hash;
pub use method::Method;
use replace::RetiredChannel;
pub use replace::{ChannelDiff, ServerIdentity};

/// A channel as it is to be.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// Its server.
    pub server: ResolvedServer,
    /// Connections at a time; 0 means no limit.
    pub max: u32,
}

/// A group as it is to be.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How it picks.
    pub method: Method,
    /// Its channels.
    pub channels: Vec<ChannelConfig>,
}

/// All addresses of all servers of these groups.
pub fn addresses(groups: &[GroupConfig]) -> impl Iterator<Item = &SocketAddr> {
    let channels = groups.iter().flat_map(|group| &group.channels);
    channels.flat_map(|channel| channel.server.addresses.iter())
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
    fn new(method: Method, channels: Vec<Channel>) -> Self {
        Self { method, channels, next: 0 }
    }

    /// The channel for a client that has tried those in `tried` already, and moves the turn on
    /// behind it; when there is none the turn goes back to the start.
    fn pick(&mut self, client: u32, tried: &[ChannelKey], policy: Policy) -> Option<usize> {
        let n = self.channels.len();
        if n == 0 {
            return None;
        }
        let usable = |i: &usize| {
            let channel = &self.channels[*i];
            channel.is_usable() && !tried.contains(&channel.key)
        };
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
    pub key: ChannelKey,
    /// Where to connect.
    pub addresses: Arc<[SocketAddr]>,
    client: u32,
    /// The channel's group, in which it stays.
    group: usize,
    /// Channels of this group that have failed for this client.
    tried: Vec<ChannelKey>,
    /// Channels of all groups for which this client found no local port, the longest wait first.
    no_local_port: VecDeque<ChannelKey>,
    is_retry: bool,
}

impl Attempt {
    /// Whether the channel was tried before: there was no local port for it, and no other channel is
    /// left. The driver waits before such an attempt, and gives up when it has waited long enough.
    pub fn is_retry(&self) -> bool {
        self.is_retry
    }
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
    /// Where each channel of the groups stands.
    positions: HashMap<ChannelKey, ChannelId>,
    /// Channels in no group that still have connections.
    retired: BTreeMap<ChannelKey, RetiredChannel>,
    keys: ChannelKeys,
    policy: Policy,
}

impl Selector {
    /// Starts with these groups, first one first.
    pub fn new(groups: Vec<GroupConfig>, policy: Policy) -> Self {
        let mut selector = Self::default();
        selector.replace(groups, policy);
        selector
    }

    /// The groups as they stand.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The choices that it follows.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Where a channel stands; `None` if it is in no group any more.
    pub fn position(&self, key: ChannelKey) -> Option<ChannelId> {
        self.positions.get(&key).copied()
    }

    /// Connections that a channel has now, wherever it stands.
    pub fn current(&self, key: ChannelKey) -> u32 {
        match self.position(key) {
            Some(id) => self.groups[id.group].channels[id.channel].current,
            None => self.retired.get(&key).map_or(0, |retired| retired.channel.current),
        }
    }

    /// The first channel for a client, whose address hashes to `client`; `None` if none is usable.
    pub fn first(&mut self, client: u32) -> Option<Attempt> {
        self.search(0, client, Vec::new(), VecDeque::new())
    }

    /// The connect failed: the next channel for the same client, in the same group while one
    /// is left that it has not tried, then in the groups after it, then one that had no local port.
    pub fn connect_failed(&mut self, attempt: Attempt) -> Option<Attempt> {
        let autodisable = self.policy.autodisable;
        self.next_attempt(attempt, |channel| channel.enabled &= !autodisable)
    }

    /// There is no local port for a connection to the channel: the next one, as after a failure. If none
    /// is left the channels without a port are tried again, one after the other.
    pub fn no_local_port(&mut self, mut attempt: Attempt) -> Option<Attempt> {
        attempt.no_local_port.push_back(attempt.key);
        self.next_attempt(attempt, |_| {})
    }

    fn next_attempt(
        &mut self,
        attempt: Attempt,
        update: impl FnOnce(&mut Channel),
    ) -> Option<Attempt> {
        let Attempt { key, client, group, mut tried, no_local_port, is_retry, .. } = attempt;
        self.release(key, update);
        if is_retry {
            return self.retry(client, no_local_port);
        }
        tried.push(key);
        self.search(group, client, tried, no_local_port)
    }

    /// The connection is over, after `sent` bytes to the channel and `rcvd` bytes from it.
    pub fn end(&mut self, attempt: Attempt, sent: u64, rcvd: u64) {
        self.release(attempt.key, |channel| {
            channel.sent = channel.sent.wrapping_add(sent);
            channel.rcvd = channel.rcvd.wrapping_add(rcvd);
        });
    }

    fn search(
        &mut self,
        group: usize,
        client: u32,
        mut tried: Vec<ChannelKey>,
        no_local_port: VecDeque<ChannelKey>,
    ) -> Option<Attempt> {
        let policy = self.policy;
        for (number, group) in self.groups.iter_mut().enumerate().skip(group) {
            if let Some(i) = group.pick(client, &tried, policy) {
                let channel = &mut group.channels[i];
                channel.current += 1;
                channel.total += 1;
                return Some(Attempt {
                    key: channel.key,
                    addresses: Arc::clone(&channel.addresses),
                    client,
                    group: number,
                    tried,
                    no_local_port,
                    is_retry: false,
                });
            }
            tried.clear();
        }
        self.retry(client, no_local_port)
    }

    /// Tries again the first usable of the channels that had no local port. It is counted as the same
    /// attempt.
    fn retry(&mut self, client: u32, mut no_local_port: VecDeque<ChannelKey>) -> Option<Attempt> {
        let usable = |key: &ChannelKey| {
            self.position(*key)
                .is_some_and(|id| self.groups[id.group].channels[id.channel].is_usable())
        };
        let i = no_local_port.iter().position(usable)?;
        let key = no_local_port.remove(i)?;
        let group = self.position(key)?.group;
        let channel = &mut self.groups[group].channels[self.positions[&key].channel];
        channel.current += 1;
        let addresses = Arc::clone(&channel.addresses);
        Some(Attempt {
            key,
            addresses,
            client,
            group,
            tried: Vec::new(),
            no_local_port,
            is_retry: true,
        })
    }

    /// Takes an attempt off its channel, and notes there what came of it.
    fn release(&mut self, key: ChannelKey, update: impl FnOnce(&mut Channel)) {
        let channel = match self.positions.get(&key) {
            Some(id) => &mut self.groups[id.group].channels[id.channel],
            None => &mut self.retired.get_mut(&key).expect("it has this attempt").channel,
        };
        debug_assert!(channel.current > 0, "{key:?} given back more often than taken");
        channel.current -= 1;
        update(channel);
        if channel.current == 0 {
            self.retired.remove(&key);
        }
    }

    /// Puts a channel behind those of a group.
    fn push(&mut self, group: usize, channel: Channel) -> ChannelId {
        let channels = &mut self.groups[group].channels;
        let id = ChannelId { group, channel: channels.len() };
        self.positions.insert(channel.key, id);
        channels.push(channel);
        id
    }
}
