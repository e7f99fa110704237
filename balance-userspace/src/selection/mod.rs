//! Chooses the channel for each client: groups in order, channels by round robin or hash, failover.
//!
//! Pure: no I/O, no clock. The caller asks for an [`Attempt`], connects, and reports the result.
//!
//! Invariants:
//! - A channel never has more connections than its maximum.
//! - A client tries no channel twice. The exception is a channel that had no local port: the client
//!   tries it again after all other channels have failed.
//! - Every attempt is returned exactly once ([`Selector::connect_failed`],
//!   [`Selector::no_local_port`] or [`Selector::end`]), so the counters always add up.

mod change;
mod channel;
mod difference;
mod hash;
mod method;
pub mod names;
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
pub use channel::{Channel, ChannelId, ChannelKey, ChannelRef, HostName, ResolvedServer};
use difference::ConfiguredGroup;
pub use difference::Differences;
pub use hash::client_hash;
pub use method::Method;
pub use names::ServerName;
use replace::RetiredChannel;
pub use replace::{ChannelDiff, ServerIdentity};

/// The configuration of a channel.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// The server that the channel leads to.
    pub server: ResolvedServer,
    /// Maximum of concurrent connections; 0 means no limit.
    pub max: u32,
}

/// The configuration of a group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How the group picks a channel.
    pub method: Method,
    /// The channels, in the order of the configuration.
    pub channels: Vec<ChannelConfig>,
}

/// Returns all addresses of all servers of the groups.
pub fn addresses(groups: &[GroupConfig]) -> impl Iterator<Item = &SocketAddr> {
    let channels = groups.iter().flat_map(|group| &group.channels);
    channels.flat_map(|channel| channel.server.addresses.iter())
}

/// Channels that replace each other on failure.
#[derive(Clone, Debug)]
pub struct Group {
    /// How the group picks a channel.
    pub method: Method,
    /// The channels, in the order of the configuration.
    pub channels: Vec<Channel>,
    /// Index of the channel with which round robin continues.
    next: usize,
}

impl Group {
    /// Makes a group in which round robin starts with the first channel.
    fn new(method: Method, channels: Vec<Channel>) -> Self {
        Self { method, channels, next: 0 }
    }

    /// Picks the index of a channel that is usable and not in `tried`.
    ///
    /// `client` is the hash of the client's address. Round robin continues after the picked
    /// channel, or at the first channel if there was none to pick.
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

/// A connect to one channel for one client.
///
/// The channel counts the attempt as a connection until the attempt is returned.
#[derive(Debug)]
#[must_use = "the channel counts an attempt until it is returned"]
pub struct Attempt {
    /// The channel to try.
    pub key: ChannelKey,
    /// Addresses of the server, best first.
    pub addresses: Arc<[SocketAddr]>,
    client: u32,
    /// Index of the group in which the search for the next channel continues.
    group: usize,
    /// Channels of this group to which this client could not connect.
    tried: Vec<ChannelKey>,
    /// Channels of all groups for which there was no local port, the longest wait first.
    no_local_port: VecDeque<ChannelKey>,
    is_retry: bool,
}

impl Attempt {
    /// Whether this client has tried the channel before.
    ///
    /// Then there was no local port for the channel, and no other channel is left. The caller waits
    /// before a retry, and gives up when its limit for these waits is reached.
    pub fn is_retry(&self) -> bool {
        self.is_retry
    }
}

/// Options of the command line that change the selection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// `-H`: in a hash group the next usable channel replaces an unusable one.
    pub hash_failover: bool,
    /// `-a`: a failed connect disables the channel.
    pub autodisable: bool,
}

/// The groups of one listener.
#[derive(Debug, Default)]
pub struct Selector {
    groups: Vec<Group>,
    /// The groups as last configured.
    configured: Vec<ConfiguredGroup>,
    /// Group and index of each channel.
    positions: HashMap<ChannelKey, ChannelId>,
    /// Channels that are in no group any more but still have connections.
    retired: BTreeMap<ChannelKey, RetiredChannel>,
    keys: ChannelKeys,
    policy: Policy,
}

impl Selector {
    /// Makes a selector with these groups; the first group is the preferred one.
    pub fn new(groups: Vec<GroupConfig>, policy: Policy) -> Self {
        let mut selector = Self::default();
        selector.replace(groups, policy);
        selector
    }

    /// The groups in their order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The policy in effect.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Group and index of a channel; `None` if the channel is in no group any more.
    pub fn position(&self, key: ChannelKey) -> Option<ChannelId> {
        self.positions.get(&key).copied()
    }

    /// The channel of this key, also a retired one.
    pub fn by_key(&self, key: ChannelKey) -> Option<&Channel> {
        match self.position(key) {
            Some(id) => Some(&self.groups[id.group].channels[id.channel]),
            None => self.retired.get(&key).map(|retired| &retired.channel),
        }
    }

    /// Number of connections of a channel, also of a retired one.
    pub fn current(&self, key: ChannelKey) -> u32 {
        self.by_key(key).map_or(0, |channel| channel.current)
    }

    /// Starts the first attempt for a client; `None` if no channel is usable.
    ///
    /// `client` is the hash of the client's address ([`client_hash`]).
    pub fn first(&mut self, client: u32) -> Option<Attempt> {
        self.search(0, client, Vec::new(), VecDeque::new())
    }

    /// Returns a failed attempt and starts the next one for the same client; `None` if none is
    /// left.
    ///
    /// Order: untried channels of the same group, the groups after it, channels that had no local
    /// port.
    pub fn connect_failed(&mut self, attempt: Attempt) -> Option<Attempt> {
        let autodisable = self.policy.autodisable;
        self.next_attempt(attempt, |channel| channel.enabled &= !autodisable)
    }

    /// Returns an attempt for which there was no local port, and starts the next one.
    ///
    /// The order is that of [`Self::connect_failed`]. When only channels without a local port are
    /// left, the selector retries them one after the other.
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

    /// Returns an attempt whose connection has ended.
    ///
    /// `sent` counts the bytes to the server, `rcvd` the bytes from the server.
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
        for (index, group) in self.groups.iter_mut().enumerate().skip(group) {
            if let Some(i) = group.pick(client, &tried, policy) {
                let channel = &mut group.channels[i];
                channel.current += 1;
                channel.total += 1;
                return Some(Attempt {
                    key: channel.key,
                    addresses: Arc::clone(&channel.addresses),
                    client,
                    group: index,
                    tried,
                    no_local_port,
                    is_retry: false,
                });
            }
            tried.clear();
        }
        self.retry(client, no_local_port)
    }

    /// Retries the first usable channel that had no local port. The total of the channel does not
    /// count a retry again.
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

    /// Takes an attempt off the counter of its channel, and updates the channel with the result.
    fn release(&mut self, key: ChannelKey, update: impl FnOnce(&mut Channel)) {
        let channel = match self.positions.get(&key) {
            Some(id) => &mut self.groups[id.group].channels[id.channel],
            None => {
                &mut self
                    .retired
                    .get_mut(&key)
                    .expect("a retired channel stays while it has attempts")
                    .channel
            }
        };
        debug_assert!(channel.current > 0, "{key:?}: more attempts returned than started");
        channel.current -= 1;
        update(channel);
        if channel.current == 0 {
            self.retired.remove(&key);
        }
    }

    /// Gives every channel its name among the present ones.
    fn update_names(&mut self) {
        let channels = self.groups.iter().flat_map(|group| &group.channels);
        let names = names::all(channels.map(|channel| &channel.name_parts));
        let channels = self.groups.iter_mut().flat_map(|group| &mut group.channels);
        for (channel, name) in channels.zip(names) {
            channel.name = name.into();
        }
    }

    /// Appends a channel to a group.
    fn push(&mut self, group: usize, channel: Channel) -> ChannelId {
        let channels = &mut self.groups[group].channels;
        let id = ChannelId { group, channel: channels.len() };
        self.positions.insert(channel.key, id);
        channels.push(channel);
        id
    }
}
