//! The table becomes what a new list of groups says, while connections run on it.
//!
//! Invariants: a channel that is in both, in the group of the same number, stays itself: key,
//! counters, connections, and whether it is enabled. One that is in the old list only is in no
//! group any more, and is known until its last connection has ended; if it is wanted again before
//! that, it is the same again, because its server still has those connections.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    net::SocketAddr,
};

use super::{Channel, Group, Key, Name, Policy, Selector, Wanted, WantedGroup};

/// What tells the servers of a group apart: how they were given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// By name.
    Name(Name),
    /// As an address.
    Addresses(Vec<SocketAddr>),
}

impl Server {
    fn of(name: Option<&Name>, addresses: &[SocketAddr]) -> Self {
        name.map_or_else(|| Self::Addresses(addresses.to_vec()), |name| Self::Name(name.clone()))
    }

    fn of_channel(channel: &Channel) -> Self {
        Self::of(channel.name.as_ref(), &channel.addresses)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(Name { host, port }) => write!(f, "{host}:{port}"),
            Self::Addresses(addresses) => {
                let texts: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// A channel that is in no group any more.
#[derive(Debug)]
pub(super) struct Retired {
    /// The group that it was in.
    pub(super) group: usize,
    pub(super) channel: Channel,
}

/// Channels that came and went, each with the number of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// In the new list only.
    pub added: Vec<(usize, Server)>,
    /// In the old list only.
    pub removed: Vec<(usize, Server)>,
}

impl Selector {
    /// Makes the table what these groups say. Servers that are in a group several times are
    /// matched in their order.
    pub fn replace(&mut self, groups: Vec<WantedGroup>, policy: Policy) -> Replaced {
        let turns: Vec<Vec<Key>> = self.groups.iter().map(Group::turns).collect();
        let before = mem::take(&mut self.places);
        let mut known = self.take_all();
        let mut replaced = Replaced::default();
        self.policy = policy;
        for (number, group) in groups.into_iter().enumerate() {
            self.groups.push(Group::new(group.method, Vec::new()));
            for Wanted { location, max } in group.channels {
                let server = Server::of(location.name.as_ref(), &location.addresses);
                let channel = match known.take(number, &server) {
                    Some(channel) => Channel {
                        addresses: location.addresses.into(),
                        unresolved_since: None,
                        max,
                        ..channel
                    },
                    None => Channel::new(self.keys.next(), location, max),
                };
                if !before.contains_key(&channel.key) {
                    replaced.added.push((number, server));
                }
                self.put(number, channel);
            }
        }
        for (group, turns) in self.groups.iter_mut().zip(turns) {
            // The turn stays with the channel that has it, or goes to the first after it that stays.
            let next = turns.iter().find_map(|key| self.places.get(key));
            group.next = next.map_or(0, |id| id.channel);
        }
        for (group, channel) in known.rest() {
            if before.contains_key(&channel.key) {
                replaced.removed.push((group, Server::of_channel(&channel)));
            }
            if channel.current > 0 {
                self.retired.insert(channel.key, Retired { group, channel });
            }
        }
        replaced
    }

    /// Takes out all channels that there are, those in the groups before those that are retired.
    fn take_all(&mut self) -> Known {
        let mut known = Known::default();
        for (number, group) in mem::take(&mut self.groups).into_iter().enumerate() {
            group.channels.into_iter().for_each(|channel| known.put(number, channel));
        }
        for (_, Retired { group, channel }) in mem::take(&mut self.retired) {
            // If it is wanted again, it is enabled as a new one would be.
            known.put(group, Channel { enabled: true, ..channel });
        }
        known
    }
}

impl Group {
    /// The channels in the order of their turns.
    fn turns(&self) -> Vec<Key> {
        let (later, sooner) = self.channels.split_at(self.next);
        sooner.iter().chain(later).map(|channel| channel.key).collect()
    }
}

/// Channels that have no place yet in the new list: by group and server, in order.
#[derive(Default)]
struct Known(BTreeMap<(usize, Server), VecDeque<Channel>>);

impl Known {
    fn put(&mut self, group: usize, channel: Channel) {
        self.0.entry((group, Server::of_channel(&channel))).or_default().push_back(channel);
    }

    fn take(&mut self, group: usize, server: &Server) -> Option<Channel> {
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
    use crate::selection::{Attempt, ChannelId, Location, Method};

    /// Servers by name, `NAME` or `NAME:MAX`, each at an address that `at` gives it.
    fn group(channels: &str, at: u16) -> WantedGroup {
        let channels = channels.split_whitespace().map(|text| {
            let (host, max) = text.split_once(':').unwrap_or((text, "0"));
            let name = Name { host: host.to_owned(), port: 25 };
            let location = Location { addresses: address(at), name: Some(name) };
            Wanted { location, max: max.parse().unwrap() }
        });
        WantedGroup { method: Method::RoundRobin, channels: channels.collect() }
    }

    fn address(port: u16) -> Vec<SocketAddr> {
        vec![([127, 0, 0, 1], port).into()]
    }

    fn groups(lists: &[&str]) -> Vec<WantedGroup> {
        lists.iter().map(|channels| group(channels, 1)).collect()
    }

    fn table(lists: &[&str]) -> Selector {
        Selector::new(groups(lists), Policy::default())
    }

    fn replace(table: &mut Selector, lists: &[&str]) -> String {
        let Replaced { added, removed } = table.replace(groups(lists), Policy::default());
        let text = |sign: char, (group, server): (usize, Server)| format!("{sign}{group}.{server}");
        let added = added.into_iter().map(|one| text('+', one));
        let removed = removed.into_iter().map(|one| text('-', one));
        added.chain(removed).collect::<Vec<_>>().join(" ")
    }

    /// The name of the server that an attempt is for, and its group and number.
    fn at(table: &Selector, attempt: &Attempt) -> (String, usize, usize) {
        let id = table.place(attempt.key).unwrap();
        let name = table.channel(id).unwrap().name.clone().unwrap();
        (name.host, id.group, id.channel)
    }

    /// Names of the servers that so many clients get.
    fn course(table: &mut Selector, clients: usize) -> String {
        let names = (0..clients).map(|_| {
            let attempt = table.first(0).unwrap();
            let (name, ..) = at(table, &attempt);
            table.ended(attempt, 1, 2);
            name
        });
        names.collect()
    }

    #[test]
    fn a_channel_that_stays_keeps_what_it_has_and_takes_what_is_new() {
        let mut table = table(&["a b c"]);
        let _standing = [(); 3].map(|()| table.first(0).unwrap());
        let id = ChannelId { group: 0, channel: 1 };
        table.set_enabled(id, false).unwrap();
        let before = table.channel(id).unwrap().clone();
        let mut wanted = vec![group("x c b:7", 9)];
        wanted[0].method = Method::Hash;
        table.replace(wanted, Policy { hash_failover: true, autodisable: true });
        let id = ChannelId { group: 0, channel: 2 };
        let after = table.channel(id).unwrap();
        assert_eq!(table.place(before.key), Some(id));
        assert_eq!((after.key, after.current, after.total), (before.key, 1, 1));
        assert_eq!((after.enabled, after.max, &*after.addresses), (false, 7, &*address(9)));
        assert_eq!(table.groups()[0].method, Method::Hash);
        assert!(table.policy().hash_failover && table.policy().autodisable);
    }

    #[test]
    fn who_comes_and_who_goes_is_told_by_group() {
        let mut table = table(&["a b", "c"]);
        assert_eq!(replace(&mut table, &["b a", "c"]), "");
        assert_eq!(replace(&mut table, &["b", "a"]), "+1.a:25 -0.a:25 -1.c:25");
        assert_eq!(replace(&mut table, &[]), "-0.b:25 -1.a:25");
        assert_eq!(replace(&mut table, &["a"]), "+0.a:25");
    }

    #[test]
    fn a_server_is_the_same_by_name_or_else_by_address() {
        let literal =
            |port| Wanted { location: Location { addresses: address(port), name: None }, max: 0 };
        let list = |channels| vec![WantedGroup { method: Method::RoundRobin, channels }];
        let mut table = Selector::new(list(vec![literal(1), literal(2)]), Policy::default());
        let keys = |table: &Selector| -> Vec<Key> {
            table.groups()[0].channels.iter().map(|channel| channel.key).collect()
        };
        let before = keys(&table);
        table.replace(list(vec![literal(2), literal(3), literal(1)]), Policy::default());
        let after = keys(&table);
        assert_eq!([after[2], after[0]], before[..]);
        // The name of an address is another server.
        let Replaced { added, removed } = table.replace(vec![group("a", 1)], Policy::default());
        assert_eq!((added.len(), removed.len()), (1, 3));
    }

    #[test]
    fn of_equal_servers_the_first_stays_the_first() {
        let mut table = table(&["a a b"]);
        let first = table.first(0).unwrap();
        let second = table.first(0).unwrap();
        assert_eq!(replace(&mut table, &["b a"]), "-0.a:25");
        assert_eq!(at(&table, &first), ("a".to_owned(), 0, 1));
        assert_eq!(table.place(second.key), None);
        assert_eq!(replace(&mut table, &["a a"]), "+0.a:25 -0.b:25");
        assert_eq!((at(&table, &first).2, at(&table, &second).2), (0, 1));
    }

    #[test]
    fn one_that_is_gone_is_known_as_long_as_it_has_connections() {
        let mut table = table(&["a:1 b"]);
        let first = table.first(0).unwrap();
        table.set_enabled(ChannelId { group: 0, channel: 0 }, false).unwrap();
        replace(&mut table, &["b"]);
        assert_eq!((table.current(first.key), course(&mut table, 3)), (1, "bbb".to_owned()));
        // Its server still has that connection, so it is full.
        replace(&mut table, &["b a:1"]);
        assert_eq!((table.current(first.key), course(&mut table, 3)), (1, "bbb".to_owned()));
        replace(&mut table, &["b"]);
        table.ended(first, 5, 6);
        assert!(table.retired.is_empty());
        replace(&mut table, &["a:1 b"]);
        let a = table.channel(ChannelId { group: 0, channel: 0 }).unwrap();
        assert_eq!((a.current, a.total, a.sent, a.enabled), (0, 0, 0, true));
    }

    #[test]
    fn a_failed_attempt_goes_on_in_the_new_list() {
        let mut table = table(&["a b", "c"]);
        // Stays, renumbered: it is not tried again.
        let attempt = table.first(0).unwrap();
        assert_eq!(at(&table, &attempt).0, "a");
        replace(&mut table, &["d a", "c e"]);
        let attempt = table.failed(attempt).unwrap();
        assert_eq!(at(&table, &attempt).0, "d");
        let attempt = table.failed(attempt).unwrap();
        assert_eq!(at(&table, &attempt), ("c".to_owned(), 1, 0));
        // Gone, with its group: there is none after it.
        replace(&mut table, &["a"]);
        assert!(table.failed(attempt).is_none());
        assert!(table.retired.is_empty());
    }

    #[test]
    fn the_turn_stays_where_it_is() {
        let mut table = table(&["a b c d"]);
        assert_eq!(course(&mut table, 2), "ab");
        replace(&mut table, &["d c b a"]);
        assert_eq!(course(&mut table, 2), "cb");
        // Whose turn it would be is gone.
        replace(&mut table, &["d x c"]);
        assert_eq!(course(&mut table, 3), "dxc");
    }
}
