//! The selector becomes what a new list of groups says, while connections run on it.
//!
//! Invariants: a channel that is in both, in the group of the same number, stays itself: key,
//! counters, connections, and whether it is enabled. One that is in the old list only is in no
//! group any more, and is known until its last connection has ended; if it is config again before
//! that, it is the same again, because its server still has those connections.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    net::SocketAddr,
};

use super::{Channel, ChannelConfig, ChannelKey, Group, GroupConfig, Policy, Selector, ServerName};

/// What tells the servers of a group apart: how they were given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerIdentity {
    /// By name.
    Name(ServerName),
    /// As an address.
    Addresses(Vec<SocketAddr>),
}

impl ServerIdentity {
    fn of(name: Option<&ServerName>, addresses: &[SocketAddr]) -> Self {
        name.map_or_else(|| Self::Addresses(addresses.to_vec()), |name| Self::Name(name.clone()))
    }

    fn of_channel(channel: &Channel) -> Self {
        Self::of(channel.name.as_ref(), &channel.addresses)
    }
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(ServerName { host, port }) => write!(f, "{host}:{port}"),
            Self::Addresses(addresses) => {
                let texts: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// A channel that is in no group any more.
#[derive(Debug)]
pub(super) struct RetiredChannel {
    /// The group that it was in.
    pub(super) group: usize,
    pub(super) channel: Channel,
}

/// Channels that came and went, each with the number of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelDiff {
    /// In the new list only.
    pub added: Vec<(usize, ServerIdentity)>,
    /// In the old list only.
    pub removed: Vec<(usize, ServerIdentity)>,
}

impl Selector {
    /// Makes the selector what these groups say. Servers that are in a group several times are
    /// matched in their order.
    pub fn replace(&mut self, groups: Vec<GroupConfig>, policy: Policy) -> ChannelDiff {
        let round_robin_order: Vec<Vec<ChannelKey>> =
            self.groups.iter().map(Group::round_robin_order).collect();
        let before = mem::take(&mut self.positions);
        let mut known = self.take_all_channels();
        let mut replaced = ChannelDiff::default();
        self.policy = policy;
        for (number, group) in groups.into_iter().enumerate() {
            self.groups.push(Group::new(group.method, Vec::new()));
            for ChannelConfig { server, max } in group.channels {
                let identity = ServerIdentity::of(server.name.as_ref(), &server.addresses);
                let channel = match known.take(number, &identity) {
                    Some(channel) => Channel {
                        addresses: server.addresses.into(),
                        unresolved_since: None,
                        max,
                        ..channel
                    },
                    None => Channel::new(self.keys.next(), server, max),
                };
                if !before.contains_key(&channel.key) {
                    replaced.added.push((number, identity));
                }
                self.push(number, channel);
            }
        }
        for (group, round_robin_order) in self.groups.iter_mut().zip(round_robin_order) {
            // The turn stays with the channel that has it, or goes to the first after it that stays.
            let next = round_robin_order.iter().find_map(|key| self.positions.get(key));
            group.next = next.map_or(0, |id| id.channel);
        }
        for (group, channel) in known.rest() {
            if before.contains_key(&channel.key) {
                replaced.removed.push((group, ServerIdentity::of_channel(&channel)));
            }
            if channel.current > 0 {
                self.retired.insert(channel.key, RetiredChannel { group, channel });
            }
        }
        replaced
    }

    /// Takes out all channels that there are, those in the groups before those that are retired.
    fn take_all_channels(&mut self) -> UnplacedChannels {
        let mut known = UnplacedChannels::default();
        for (number, group) in mem::take(&mut self.groups).into_iter().enumerate() {
            group.channels.into_iter().for_each(|channel| known.push(number, channel));
        }
        for (_, RetiredChannel { group, channel }) in mem::take(&mut self.retired) {
            // If it is config again, it is enabled as a new one would be.
            known.push(group, Channel { enabled: true, ..channel });
        }
        known
    }
}

impl Group {
    /// The channels in the order of their round_robin_order.
    fn round_robin_order(&self) -> Vec<ChannelKey> {
        let (later, sooner) = self.channels.split_at(self.next);
        sooner.iter().chain(later).map(|channel| channel.key).collect()
    }
}

/// Channels that have no place yet in the new list: by group and server, in order.
#[derive(Default)]
struct UnplacedChannels(BTreeMap<(usize, ServerIdentity), VecDeque<Channel>>);

impl UnplacedChannels {
    fn push(&mut self, group: usize, channel: Channel) {
        self.0.entry((group, ServerIdentity::of_channel(&channel))).or_default().push_back(channel);
    }

    fn take(&mut self, group: usize, server: &ServerIdentity) -> Option<Channel> {
        self.0.get_mut(&(group, server.clone()))?.pop_front()
    }

    fn rest(self) -> impl Iterator<Item = (usize, Channel)> {
        let rest = self.0.into_iter();
        rest.flat_map(|((group, _), channels)| channels.into_iter().map(move |c| (group, c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::{Attempt, ChannelId, Method, ResolvedServer};

    /// Servers by name, `NAME` or `NAME:MAX`, each at an address that `at` gives it.
    fn group(channels: &str, at: u16) -> GroupConfig {
        let channels = channels.split_whitespace().map(|text| {
            let (host, max) = text.split_once(':').unwrap_or((text, "0"));
            let name = ServerName { host: host.to_owned(), port: 25 };
            let server = ResolvedServer { addresses: address(at), name: Some(name) };
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

    /// The name of the server that an attempt is for, and its group and number.
    fn at(selector: &Selector, attempt: &Attempt) -> (String, usize, usize) {
        let id = selector.position(attempt.key).unwrap();
        let name = selector.channel(id).unwrap().name.clone().unwrap();
        (name.host, id.group, id.channel)
    }

    /// Names of the servers that so many clients get.
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
    fn a_channel_that_stays_keeps_what_it_has_and_takes_what_is_new() {
        let mut selector = selector(&["a b c"]);
        let _standing = [(); 3].map(|()| selector.first(0).unwrap());
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
    fn who_comes_and_who_goes_is_told_by_group() {
        let mut selector = selector(&["a b", "c"]);
        assert_eq!(replace(&mut selector, &["b a", "c"]), "");
        assert_eq!(replace(&mut selector, &["b", "a"]), "+1.a:25 -0.a:25 -1.c:25");
        assert_eq!(replace(&mut selector, &[]), "-0.b:25 -1.a:25");
        assert_eq!(replace(&mut selector, &["a"]), "+0.a:25");
    }

    #[test]
    fn a_server_is_the_same_by_name_or_else_by_address() {
        let literal = |port| ChannelConfig {
            server: ResolvedServer { addresses: address(port), name: None },
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
        // The name of an address is another server.
        let ChannelDiff { added, removed } =
            selector.replace(vec![group("a", 1)], Policy::default());
        assert_eq!((added.len(), removed.len()), (1, 3));
    }

    #[test]
    fn of_equal_servers_the_first_stays_the_first() {
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
    fn one_that_is_gone_is_known_as_long_as_it_has_connections() {
        let mut selector = selector(&["a:1 b"]);
        let first = selector.first(0).unwrap();
        selector.set_enabled(ChannelId { group: 0, channel: 0 }, false).unwrap();
        replace(&mut selector, &["b"]);
        assert_eq!(
            (selector.current(first.key), sequence(&mut selector, 3)),
            (1, "bbb".to_owned())
        );
        // Its server still has that connection, so it is full.
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
    fn a_failed_attempt_goes_on_in_the_new_list() {
        let mut selector = selector(&["a b", "c"]);
        // Stays, renumbered: it is not tried again.
        let attempt = selector.first(0).unwrap();
        assert_eq!(at(&selector, &attempt).0, "a");
        replace(&mut selector, &["d a", "c e"]);
        let attempt = selector.connect_failed(attempt).unwrap();
        assert_eq!(at(&selector, &attempt).0, "d");
        let attempt = selector.connect_failed(attempt).unwrap();
        assert_eq!(at(&selector, &attempt), ("c".to_owned(), 1, 0));
        // Gone, with its group: there is none after it.
        replace(&mut selector, &["a"]);
        assert!(selector.connect_failed(attempt).is_none());
        assert!(selector.retired.is_empty());
    }

    #[test]
    fn the_turn_stays_where_it_is() {
        let mut selector = selector(&["a b c d"]);
        assert_eq!(sequence(&mut selector, 2), "ab");
        replace(&mut selector, &["d c b a"]);
        assert_eq!(sequence(&mut selector, 2), "cb");
        // Whose turn it would be is gone.
        replace(&mut selector, &["d x c"]);
        assert_eq!(sequence(&mut selector, 3), "dxc");
    }
}
