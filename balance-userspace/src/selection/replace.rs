//! Replacement of the whole list of groups while connections are open.
//!
//! Invariants:
//! - A channel that is in the same group of both lists keeps its key, counters, connections and
//!   enabled state.
//! - A channel that is only in the old list leaves its group, and is retired until its last
//!   connection has ended. If a list contains the server again before that, the same channel
//!   returns, because the server still has these connections.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    net::SocketAddr,
};

use super::{
    Channel, ChannelConfig, ChannelKey, ConfiguredGroup, Group, GroupConfig, HostName, Policy,
    Selector,
};

/// The identity of a server within a group: the server as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerIdentity {
    /// The host name.
    Name(HostName),
    /// The addresses, if the configuration has no name.
    Addresses(Vec<SocketAddr>),
}

impl ServerIdentity {
    fn of(name: Option<&HostName>, addresses: &[SocketAddr]) -> Self {
        name.map_or_else(|| Self::Addresses(addresses.to_vec()), |name| Self::Name(name.clone()))
    }

    fn of_channel(channel: &Channel) -> Self {
        Self::of(channel.host_name.as_ref(), &channel.addresses)
    }
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(HostName { host, port }) => write!(f, "{host}:{port}"),
            Self::Addresses(addresses) => {
                let texts: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// A channel that is in no group any more and still has connections.
#[derive(Debug)]
pub(super) struct RetiredChannel {
    /// The last group of the channel.
    pub(super) group: usize,
    pub(super) channel: Channel,
}

/// The difference between two lists: servers, each with the index of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelDiff {
    /// Servers in the new list only.
    pub added: Vec<(usize, ServerIdentity)>,
    /// Servers in the old list only.
    pub removed: Vec<(usize, ServerIdentity)>,
}

impl Selector {
    /// Replaces the groups and the policy. Several channels of one group with the same server match
    /// in their order.
    pub fn replace(&mut self, groups: Vec<GroupConfig>, policy: Policy) -> ChannelDiff {
        let orders: Vec<Vec<ChannelKey>> =
            self.groups.iter().map(Group::round_robin_order).collect();
        let before = mem::take(&mut self.positions);
        let mut unplaced = self.take_all_channels();
        let mut diff = ChannelDiff::default();
        self.policy = policy;
        self.configured = groups.iter().map(ConfiguredGroup::of).collect();
        for (index, group) in groups.into_iter().enumerate() {
            self.groups.push(Group::new(group.method, Vec::new()));
            for ChannelConfig { server, max } in group.channels {
                let identity = ServerIdentity::of(server.host_name.as_ref(), &server.addresses);
                let channel = match unplaced.take(index, &identity) {
                    Some(channel) => Channel {
                        addresses: server.addresses.into(),
                        name_parts: server.name,
                        unresolved_since: None,
                        max,
                        ..channel
                    },
                    None => Channel::new(self.keys.next(), server, max),
                };
                if !before.contains_key(&channel.key) {
                    diff.added.push((index, identity));
                }
                self.push(index, channel);
            }
        }
        self.update_names();
        for (group, order) in self.groups.iter_mut().zip(orders) {
            // Round robin continues with the same channel, or with the next one that is still
            // there.
            let next = order.iter().find_map(|key| self.positions.get(key));
            group.next = next.map_or(0, |id| id.channel);
        }
        for (group, channel) in unplaced.into_channels() {
            if before.contains_key(&channel.key) {
                diff.removed.push((group, ServerIdentity::of_channel(&channel)));
            }
            if channel.current > 0 {
                self.retired.insert(channel.key, RetiredChannel { group, channel });
            }
        }
        diff
    }

    /// Takes all channels: first the channels in groups, then the retired ones.
    fn take_all_channels(&mut self) -> UnplacedChannels {
        let mut unplaced = UnplacedChannels::default();
        for (index, group) in mem::take(&mut self.groups).into_iter().enumerate() {
            group.channels.into_iter().for_each(|channel| unplaced.push(index, channel));
        }
        for (_, RetiredChannel { group, channel }) in mem::take(&mut self.retired) {
            // A retired channel that returns is enabled, like a new one.
            unplaced.push(group, Channel { enabled: true, ..channel });
        }
        unplaced
    }
}

impl Group {
    /// Keys of the channels in the order of round robin, the next one first.
    fn round_robin_order(&self) -> Vec<ChannelKey> {
        let (before, from_next) = self.channels.split_at(self.next);
        from_next.iter().chain(before).map(|channel| channel.key).collect()
    }
}

/// Channels that are not in the new list yet, by group and server, in their order.
#[derive(Default)]
struct UnplacedChannels(BTreeMap<(usize, ServerIdentity), VecDeque<Channel>>);

impl UnplacedChannels {
    fn push(&mut self, group: usize, channel: Channel) {
        self.0.entry((group, ServerIdentity::of_channel(&channel))).or_default().push_back(channel);
    }

    fn take(&mut self, group: usize, server: &ServerIdentity) -> Option<Channel> {
        self.0.get_mut(&(group, server.clone()))?.pop_front()
    }

    fn into_channels(self) -> impl Iterator<Item = (usize, Channel)> {
        let rest = self.0.into_iter();
        rest.flat_map(|((group, _), channels)| channels.into_iter().map(move |c| (group, c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::{Attempt, ChannelId, Method, ResolvedServer};

    /// A group of servers `NAME` or `NAME:MAX`; all have the address with port `at`.
    fn group(channels: &str, at: u16) -> GroupConfig {
        let channels = channels.split_whitespace().map(|text| {
            let (host, max) = text.split_once(':').unwrap_or((text, "0"));
            let name = HostName { host: host.to_owned(), port: 25 };
            let server = ResolvedServer {
                addresses: address(at),
                host_name: Some(name),
                ..ResolvedServer::default()
            };
            ChannelConfig { server, max: max.parse().unwrap() }
        });
        GroupConfig { method: Method::RoundRobin, channels: channels.collect() }
    }

    fn address(port: u16) -> Vec<SocketAddr> {
        vec![([127, 0, 0, 1], port).into()]
    }

    fn groups(lists: &[&str]) -> Vec<GroupConfig> {
        lists.iter().map(|channels| group(channels, 1)).collect()
    }

    fn selector(lists: &[&str]) -> Selector {
        Selector::new(groups(lists), Policy::default())
    }

    fn replace(selector: &mut Selector, lists: &[&str]) -> String {
        let ChannelDiff { added, removed } = selector.replace(groups(lists), Policy::default());
        let text = |sign: char, (group, server): (usize, ServerIdentity)| {
            format!("{sign}{group}.{server}")
        };
        let added = added.into_iter().map(|one| text('+', one));
        let removed = removed.into_iter().map(|one| text('-', one));
        added.chain(removed).collect::<Vec<_>>().join(" ")
    }

    /// Name of the server of an attempt, and position of its channel.
    fn at(selector: &Selector, attempt: &Attempt) -> (String, usize, usize) {
        let id = selector.position(attempt.key).unwrap();
        let name = selector.channel(id).unwrap().host_name.clone().unwrap();
        (name.host, id.group, id.channel)
    }

    /// Names of the servers of consecutive clients.
    fn sequence(selector: &mut Selector, clients: usize) -> String {
        let names = (0..clients).map(|_| {
            let attempt = selector.first(0).unwrap();
            let (name, ..) = at(selector, &attempt);
            selector.end(attempt, 1, 2);
            name
        });
        names.collect()
    }

    #[test]
    fn a_channel_in_both_lists_keeps_its_state_and_takes_new_settings() {
        let mut selector = selector(&["a b c"]);
        let _open = [(); 3].map(|()| selector.first(0).unwrap());
        let id = ChannelId { group: 0, channel: 1 };
        selector.set_enabled(id, false).unwrap();
        let before = selector.channel(id).unwrap().clone();
        let mut config = vec![group("x c b:7", 9)];
        config[0].method = Method::Hash;
        selector.replace(config, Policy { hash_failover: true, autodisable: true });
        let id = ChannelId { group: 0, channel: 2 };
        let after = selector.channel(id).unwrap();
        assert_eq!(selector.position(before.key), Some(id));
        assert_eq!((after.key, after.current, after.total), (before.key, 1, 1));
        assert_eq!((after.enabled, after.max, &*after.addresses), (false, 7, &*address(9)));
        assert_eq!(selector.groups()[0].method, Method::Hash);
        assert!(selector.policy().hash_failover && selector.policy().autodisable);
    }

    #[test]
    fn the_difference_names_added_and_removed_servers_by_group() {
        let mut selector = selector(&["a b", "c"]);
        assert_eq!(replace(&mut selector, &["b a", "c"]), "");
        assert_eq!(replace(&mut selector, &["b", "a"]), "+1.a:25 -0.a:25 -1.c:25");
        assert_eq!(replace(&mut selector, &[]), "-0.b:25 -1.a:25");
        assert_eq!(replace(&mut selector, &["a"]), "+0.a:25");
    }

    #[test]
    fn servers_match_by_name_or_without_a_name_by_address() {
        let literal = |port| ChannelConfig {
            server: ResolvedServer { addresses: address(port), ..ResolvedServer::default() },
            max: 0,
        };
        let list = |channels| vec![GroupConfig { method: Method::RoundRobin, channels }];
        let mut selector = Selector::new(list(vec![literal(1), literal(2)]), Policy::default());
        let keys = |selector: &Selector| -> Vec<ChannelKey> {
            selector.groups()[0].channels.iter().map(|channel| channel.key).collect()
        };
        let before = keys(&selector);
        selector.replace(list(vec![literal(2), literal(3), literal(1)]), Policy::default());
        let after = keys(&selector);
        assert_eq!([after[2], after[0]], before[..]);
        // A name is another server than its address.
        let ChannelDiff { added, removed } =
            selector.replace(vec![group("a", 1)], Policy::default());
        assert_eq!((added.len(), removed.len()), (1, 3));
    }

    #[test]
    fn equal_servers_match_in_their_order() {
        let mut selector = selector(&["a a b"]);
        let first = selector.first(0).unwrap();
        let second = selector.first(0).unwrap();
        assert_eq!(replace(&mut selector, &["b a"]), "-0.a:25");
        assert_eq!(at(&selector, &first), ("a".to_owned(), 0, 1));
        assert_eq!(selector.position(second.key), None);
        assert_eq!(replace(&mut selector, &["a a"]), "+0.a:25 -0.b:25");
        assert_eq!((at(&selector, &first).2, at(&selector, &second).2), (0, 1));
    }

    #[test]
    fn a_removed_channel_is_kept_while_it_has_connections() {
        let mut selector = selector(&["a:1 b"]);
        let first = selector.first(0).unwrap();
        selector.set_enabled(ChannelId { group: 0, channel: 0 }, false).unwrap();
        replace(&mut selector, &["b"]);
        assert_eq!(
            (selector.current(first.key), sequence(&mut selector, 3)),
            (1, "bbb".to_owned())
        );
        // The server still has the first connection, so the channel is full.
        replace(&mut selector, &["b a:1"]);
        assert_eq!(
            (selector.current(first.key), sequence(&mut selector, 3)),
            (1, "bbb".to_owned())
        );
        replace(&mut selector, &["b"]);
        selector.end(first, 5, 6);
        assert!(selector.retired.is_empty());
        replace(&mut selector, &["a:1 b"]);
        let a = selector.channel(ChannelId { group: 0, channel: 0 }).unwrap();
        assert_eq!((a.current, a.total, a.sent, a.enabled), (0, 0, 0, true));
    }

    #[test]
    fn a_failed_attempt_continues_in_the_new_list() {
        let mut selector = selector(&["a b", "c"]);
        // The channel stays at another position: this client does not try it again.
        let attempt = selector.first(0).unwrap();
        assert_eq!(at(&selector, &attempt).0, "a");
        replace(&mut selector, &["d a", "c e"]);
        let attempt = selector.connect_failed(attempt).unwrap();
        assert_eq!(at(&selector, &attempt).0, "d");
        let attempt = selector.connect_failed(attempt).unwrap();
        assert_eq!(at(&selector, &attempt), ("c".to_owned(), 1, 0));
        // The channel and its group are gone: no group follows.
        replace(&mut selector, &["a"]);
        assert!(selector.connect_failed(attempt).is_none());
        assert!(selector.retired.is_empty());
    }

    #[test]
    fn round_robin_continues_with_the_same_channel() {
        let mut selector = selector(&["a b c d"]);
        assert_eq!(sequence(&mut selector, 2), "ab");
        replace(&mut selector, &["d c b a"]);
        assert_eq!(sequence(&mut selector, 2), "cb");
        // The next channel is gone.
        replace(&mut selector, &["d x c"]);
        assert_eq!(sequence(&mut selector, 3), "dxc");
    }
}
