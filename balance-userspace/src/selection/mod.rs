//! Which channel a client gets: groups in order, channels in turn or by hash, failover.
//!
//! Pure: no I/O, no clock. The driver asks for an [`Attempt`], tries it and says how it went.
//! Invariants: the connections of a channel never exceed its maximum; no channel is tried
//! twice for one client, except when all others have failed one for which there was no local port; every
//! attempt is given back exactly once (by [`Selector::failed`] or
//! [`Selector::ended`]), so that the counters always add up.

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

pub use change::{Changed, MAX_GROUPS, Refused};
use channel::Keys;
pub use channel::{Channel, ChannelId, Key, Location, Name};
pub use hash::client_hash;
pub use method::Method;
use replace::Retired;
pub use replace::{Replaced, Server};

/// A channel as it is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its server.
    pub location: Location,
    /// Connections at a time; 0 means no limit.
    pub max: u32,
}

/// A group as it is to be.
#[derive(Clone, Debug)]
pub struct WantedGroup {
    /// How it picks.
    pub method: Method,
    /// Its channels.
    pub channels: Vec<Wanted>,
}

/// All addresses of all servers of these groups.
pub fn addresses(groups: &[WantedGroup]) -> impl Iterator<Item = &SocketAddr> {
    let channels = groups.iter().flat_map(|group| &group.channels);
    channels.flat_map(|channel| channel.location.addresses.iter())
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
    fn pick(&mut self, client: u32, tried: &[Key], policy: Policy) -> Option<usize> {
        let n = self.channels.len();
        if n == 0 {
            return None;
        }
        let usable = |i: &usize| {
            let channel = &self.channels[*i];
            channel.usable() && !tried.contains(&channel.key)
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
    pub key: Key,
    /// Where to connect.
    pub addresses: Arc<[SocketAddr]>,
    client: u32,
    /// The channel's group, in which it stays.
    group: usize,
    /// Channels of this group that have failed for this client.
    tried: Vec<Key>,
    /// Channels of all groups for which this client found no local port, the longest wait first.
    portless: VecDeque<Key>,
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
    places: HashMap<Key, ChannelId>,
    /// Channels in no group that still have connections.
    retired: BTreeMap<Key, Retired>,
    keys: Keys,
    policy: Policy,
}

impl Selector {
    /// Starts with these groups, first one first.
    pub fn new(groups: Vec<WantedGroup>, policy: Policy) -> Self {
        let mut table = Self::default();
        table.replace(groups, policy);
        table
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
    pub fn place(&self, key: Key) -> Option<ChannelId> {
        self.places.get(&key).copied()
    }

    /// Connections that a channel has now, wherever it stands.
    pub fn current(&self, key: Key) -> u32 {
        match self.place(key) {
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
    pub fn failed(&mut self, attempt: Attempt) -> Option<Attempt> {
        let autodisable = self.policy.autodisable;
        self.go_on(attempt, |channel| channel.enabled &= !autodisable)
    }

    /// There is no local port for a connection to the channel: the next one, as after a failure. If none
    /// is left the channels without a port are tried again, one after the other.
    pub fn portless(&mut self, mut attempt: Attempt) -> Option<Attempt> {
        attempt.portless.push_back(attempt.key);
        self.go_on(attempt, |_| {})
    }

    fn go_on(&mut self, attempt: Attempt, note: impl FnOnce(&mut Channel)) -> Option<Attempt> {
        let Attempt { key, client, group, mut tried, portless, is_retry, .. } = attempt;
        self.release(key, note);
        if is_retry {
            return self.retry(client, portless);
        }
        tried.push(key);
        self.search(group, client, tried, portless)
    }

    /// The connection is over, after `sent` bytes to the channel and `rcvd` bytes from it.
    pub fn ended(&mut self, attempt: Attempt, sent: u64, rcvd: u64) {
        self.release(attempt.key, |channel| {
            channel.sent = channel.sent.wrapping_add(sent);
            channel.rcvd = channel.rcvd.wrapping_add(rcvd);
        });
    }

    fn search(
        &mut self,
        group: usize,
        client: u32,
        mut tried: Vec<Key>,
        portless: VecDeque<Key>,
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
                    portless,
                    is_retry: false,
                });
            }
            tried.clear();
        }
        self.retry(client, portless)
    }

    /// Tries again the first usable of the channels that had no local port. It is counted as the same
    /// attempt.
    fn retry(&mut self, client: u32, mut portless: VecDeque<Key>) -> Option<Attempt> {
        let usable = |key: &Key| {
            self.place(*key).is_some_and(|id| self.groups[id.group].channels[id.channel].usable())
        };
        let i = portless.iter().position(usable)?;
        let key = portless.remove(i)?;
        let group = self.place(key)?.group;
        let channel = &mut self.groups[group].channels[self.places[&key].channel];
        channel.current += 1;
        let addresses = Arc::clone(&channel.addresses);
        Some(Attempt { key, addresses, client, group, tried: Vec::new(), portless, is_retry: true })
    }

    /// Takes an attempt off its channel, and notes there what came of it.
    fn release(&mut self, key: Key, note: impl FnOnce(&mut Channel)) {
        let channel = match self.places.get(&key) {
            Some(id) => &mut self.groups[id.group].channels[id.channel],
            None => &mut self.retired.get_mut(&key).expect("it has this attempt").channel,
        };
        debug_assert!(channel.current > 0, "{key:?} given back more often than taken");
        channel.current -= 1;
        note(channel);
        if channel.current == 0 {
            self.retired.remove(&key);
        }
    }

    /// Puts a channel behind those of a group.
    fn put(&mut self, group: usize, channel: Channel) -> ChannelId {
        let channels = &mut self.groups[group].channels;
        let id = ChannelId { group, channel: channels.len() };
        self.places.insert(channel.key, id);
        channels.push(channel);
        id
    }
}
