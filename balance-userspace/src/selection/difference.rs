//! The differences between the table of an instance and its configuration, which control commands
//! and `-a` make.
//!
//! Pure. Invariants: a new table has no differences. Control commands add channels and groups but
//! never move or remove any, so the channel of a configured server is at the configured position.

use std::{collections::HashMap, iter};

use serde::{Deserialize, Serialize};

use super::{Channel, ChannelId, Group, GroupConfig, Method, Selector, ServerName};
use crate::error::one_line;

/// The most texts of one instance.
const MOST: usize = 20;

/// The differences of an instance from its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// The first differences, at most 20, each in words.
    pub first: Vec<String>,
    /// The number of all differences.
    pub count: usize,
}

impl Differences {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The differences in words, with the number of further ones at the end.
    pub fn lines(&self) -> Vec<String> {
        let more = self.count.saturating_sub(self.first.len());
        let more = (more > 0).then(|| format!("and {more} more"));
        self.first.iter().cloned().chain(more).collect()
    }
}

/// A group as configured.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfiguredGroup {
    method: Method,
    servers: Vec<(ServerName, u32)>,
}

impl ConfiguredGroup {
    pub(super) fn of(group: &GroupConfig) -> Self {
        let servers = group.channels.iter();
        let servers = servers.map(|channel| (channel.server.name.clone(), channel.max)).collect();
        Self { method: group.method, servers }
    }
}

impl Selector {
    /// Compares the table with its configuration.
    pub fn differences(&self) -> Differences {
        let mut found = Differences::default();
        let mut add = |text: String| {
            found.count += 1;
            if found.first.len() < MOST {
                found.first.push(text);
            }
        };
        let absent = ConfiguredGroup::default();
        let configured = self.configured.iter().chain(iter::repeat(&absent));
        let labels = Labels::of(&self.groups);
        for (number, (group, wanted)) in self.groups.iter().zip(configured).enumerate() {
            if group.method != wanted.method {
                let [is, says] = [group.method, wanted.method].map(command);
                add(format!("group {number}: {is}, the file says {says}"));
            }
            for (i, channel) in group.channels.iter().enumerate() {
                let label = labels.label(ChannelId { group: number, channel: i }, channel);
                match wanted.servers.get(i) {
                    Some((name, max)) => {
                        compare(&label, channel, name, *max).into_iter().for_each(&mut add);
                    }
                    None => {
                        // The default name of a server may be the address.
                        let address = channel.addresses[0].to_string();
                        let at =
                            if label == address { label } else { format!("{label} ({address})") };
                        add(format!("group {number}: server {at} is not in the file"));
                    }
                }
            }
        }
        found
    }
}

/// The differences of a channel from its configured server.
fn compare(label: &str, channel: &Channel, name: &ServerName, max: u32) -> Vec<String> {
    let mut texts = Vec::new();
    let is = &channel.name_parts;
    if (&is.host, is.port) != (&name.host, name.port) {
        let [is, says] = [is, name].map(|name| one_line(&name.with_port()));
        texts.push(format!("server {label}: {is}, the file says {says}"));
    }
    if is.given != name.given {
        let says = name.given.as_ref().unwrap_or(&name.host);
        texts.push(format!("server {label}: the file names the server {}", one_line(says)));
    }
    if channel.max != max {
        texts.push(format!("server {label}: maximum {}, the file says {max}", channel.max));
    }
    if !channel.enabled {
        texts.push(format!("server {label} is disabled"));
    }
    texts
}

/// The control command for a method.
fn command(method: Method) -> &'static str {
    match method {
        Method::RoundRobin => "rr",
        Method::Hash => "hash",
    }
}

/// How many channels have each name.
struct Labels<'a>(HashMap<&'a str, usize>);

impl<'a> Labels<'a> {
    fn of(groups: &'a [Group]) -> Self {
        let mut names: HashMap<&str, usize> = HashMap::new();
        for channel in groups.iter().flat_map(|group| &group.channels) {
            *names.entry(&channel.name).or_default() += 1;
        }
        Self(names)
    }

    /// The name of a channel, with its position if another channel has the name too.
    fn label(&self, id: ChannelId, channel: &Channel) -> String {
        let name = one_line(&channel.name);
        let is_unique = self.0.get(&*channel.name).is_none_or(|&count| count == 1);
        if is_unique { name } else { format!("{name} ({}.{})", id.group, id.channel) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::selection::{ChannelConfig, Policy, ResolvedServer};

    /// A server `HOST` or `HOST=NAME`.
    fn server(text: &str) -> ResolvedServer {
        let (host, given) = text.split_once('=').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: SocketAddr = ([10, 0, 0, 3], 25).into();
        let name = ServerName { host: host.to_owned(), port: 25, given: given.map(str::to_owned) };
        ResolvedServer { addresses: vec![address], name, ..ResolvedServer::default() }
    }

    fn group(servers: &str) -> GroupConfig {
        let channels = servers.split(' ').map(|text| {
            let (text, max) = text.split_once(':').unwrap_or((text, "0"));
            ChannelConfig { server: server(text), max: max.parse().unwrap() }
        });
        GroupConfig { method: Method::RoundRobin, channels: channels.collect() }
    }

    fn selector(groups: &[&str]) -> Selector {
        Selector::new(groups.iter().map(|servers| group(servers)).collect(), Policy::default())
    }

    fn id(group: usize, channel: usize) -> ChannelId {
        ChannelId { group, channel }
    }

    #[test]
    fn each_command_makes_its_difference() {
        let mut selector = selector(&["a:2 b=mx2", "c"]);
        assert_eq!(selector.differences(), Differences::default());
        selector.set_enabled(id(0, 0), false).unwrap();
        selector.assign(id(0, 0), server("d=mx4")).unwrap();
        selector.set_max(id(0, 1), 5).unwrap();
        selector.set_method(1, Method::Hash).unwrap();
        selector.create(1, server("e=mx3")).unwrap();
        selector.set_method(4, Method::Hash).unwrap();
        let Differences { first, count } = selector.differences();
        assert_eq!(
            first,
            [
                "server mx4: d:25, the file says a:25",
                "server mx4: the file names the server a",
                "server mx4 is disabled",
                "server mx2: maximum 5, the file says 0",
                "group 1: hash, the file says rr",
                "group 1: server mx3 (10.0.0.3:25) is not in the file",
                "group 4: hash, the file says rr",
            ]
        );
        assert_eq!(count, 7);
    }

    #[test]
    fn a_server_whose_name_repeats_has_its_position() {
        let mut selector = selector(&["a a"]);
        selector.set_enabled(id(0, 1), false).unwrap();
        assert_eq!(selector.differences().first, ["server a:25 (0.1) is disabled"]);
    }

    #[test]
    fn a_new_configuration_overwrites_all_differences_but_a_disabled_server() {
        let mut selector = selector(&["a b"]);
        selector.set_enabled(id(0, 0), false).unwrap();
        selector.set_max(id(0, 1), 5).unwrap();
        selector.create(0, server("c")).unwrap();
        selector.replace(vec![group("b:1 a")], Policy::default());
        // Without host names the servers of this test are one server, so the first stays the first.
        assert_eq!(selector.differences().first, ["server b is disabled"]);
    }

    #[test]
    fn the_list_is_bounded_and_counts_the_rest() {
        let mut selector = selector(&["a"]);
        for _ in 0..MOST + 3 {
            selector.create(0, server("b")).unwrap();
        }
        let differences = selector.differences();
        assert_eq!((differences.first.len(), differences.count), (MOST, MOST + 3));
        assert_eq!(differences.lines().last().unwrap(), "and 3 more");
    }

    proptest! {
        #[test]
        fn commands_taken_back_leave_no_difference(
            commands in prop::collection::vec((0usize..2, 0usize..2, 0u32..3), 0..9),
        ) {
            let mut selector = selector(&["a b", "c d"]);
            for &(group, channel, max) in &commands {
                selector.set_enabled(id(group, channel), max != 1).unwrap();
                selector.set_max(id(group, channel), max).unwrap();
                selector.set_method(group, Method::Hash).unwrap();
            }
            prop_assert_eq!(selector.differences().is_empty(), commands.is_empty());
            for (group, channel, _) in commands {
                selector.set_enabled(id(group, channel), true).unwrap();
                selector.set_max(id(group, channel), 0).unwrap();
                selector.set_method(group, Method::RoundRobin).unwrap();
            }
            prop_assert_eq!(selector.differences(), Differences::default());
        }
    }
}
