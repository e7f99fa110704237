//! Tests of selection: the test vectors of the classic, and properties over random groups and
//! events.
//!
//! Invariant: the model counts attempts and connections itself and trusts no counter of the
//! selector.

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn channel(max: u32) -> ChannelConfig {
    ChannelConfig { server: ResolvedServer::default(), max }
}

fn group(method: Method, maxima: &[u32]) -> GroupConfig {
    GroupConfig { method, channels: maxima.iter().map(|&max| channel(max)).collect() }
}

fn round_robin(n: usize) -> GroupConfig {
    group(Method::RoundRobin, &vec![0; n])
}

fn selector(groups: Vec<GroupConfig>) -> Selector {
    Selector::new(groups, Policy::default())
}

/// Position of the channel of an attempt.
fn at(selector: &Selector, attempt: &Attempt) -> (usize, usize) {
    let id = selector.position(attempt.key).expect("the channel is in a group");
    (id.group, id.channel)
}

/// Connects one client after another. Channels in `dead` refuse. Returns the channel of each
/// client.
fn run(
    selector: &mut Selector,
    clients: usize,
    dead: &[(usize, usize)],
) -> Vec<Option<(usize, usize)>> {
    let mut taken = Vec::new();
    for client in 0..clients {
        let mut attempt = selector.first(client as u32);
        while let Some(a) = attempt.take() {
            let at = at(selector, &a);
            if dead.contains(&at) {
                attempt = selector.connect_failed(a);
            } else {
                selector.end(a, 0, 0);
                taken.push(Some(at));
                break;
            }
        }
        if taken.len() == client {
            taken.push(None);
        }
    }
    taken
}

#[test]
fn round_robin_uses_all_channels_in_turn() {
    let mut selector = selector(vec![round_robin(3)]);
    let order: Vec<_> = run(&mut selector, 6, &[]).into_iter().map(|at| at.unwrap().1).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_classic_vector_of_a_dead_channel_before_two_good_ones() {
    let mut selector = selector(vec![round_robin(3)]);
    let order: Vec<_> =
        run(&mut selector, 4, &[(0, 0)]).into_iter().map(|at| at.unwrap().1).collect();
    assert_eq!(order, [1, 2, 1, 2]);
    let totals: Vec<_> = selector.groups()[0].channels.iter().map(|c| c.total).collect();
    assert_eq!(totals, [2, 2, 2]);
}

#[test]
fn the_next_group_is_used_only_after_the_whole_group_failed() {
    let mut selector = selector(vec![round_robin(2), round_robin(2)]);
    let taken = run(&mut selector, 3, &[(0, 0), (0, 1)]);
    assert_eq!(taken, [Some((1, 0)), Some((1, 1)), Some((1, 0))]);
    assert_eq!(run(&mut selector, 2, &[(0, 0)]), [Some((0, 1)), Some((0, 1))]);
    assert_eq!(run(&mut selector, 1, &[(0, 0), (0, 1), (1, 0), (1, 1)]), [None]);
}

#[test]
fn a_full_channel_is_skipped_in_every_group() {
    let mut selector =
        selector(vec![group(Method::RoundRobin, &[1]), group(Method::RoundRobin, &[1])]);
    let first = selector.first(0).unwrap();
    let second = selector.first(0).unwrap();
    assert_eq!((first.group, second.group), (0, 1));
    assert!(selector.first(0).is_none());
    selector.end(first, 1, 2);
    assert_eq!(selector.first(0).unwrap().group, 0);
}

#[test]
fn a_hash_group_gives_a_client_the_same_channel_or_none() {
    let mut selector = selector(vec![group(Method::Hash, &[0; 4]), round_robin(1)]);
    for _ in 0..3 {
        let a = selector.first(7).unwrap();
        assert_eq!(at(&selector, &a), (0, 3));
        let b = selector.connect_failed(a).unwrap();
        assert_eq!(at(&selector, &b), (1, 0));
        selector.end(b, 0, 0);
    }
}

#[test]
fn hash_failover_tries_the_whole_group_before_the_next_group() {
    let policy = Policy { hash_failover: true, ..Policy::default() };
    let mut selector = Selector::new(vec![group(Method::Hash, &[0; 3]), round_robin(1)], policy);
    let mut order = Vec::new();
    let mut attempt = selector.first(5);
    while let Some(a) = attempt {
        order.push(at(&selector, &a));
        attempt = selector.connect_failed(a);
    }
    assert_eq!(order, [(0, 2), (0, 0), (0, 1), (1, 0)]);
}

#[test]
fn autodisable_tries_a_failed_channel_once() {
    let policy = Policy { autodisable: true, ..Policy::default() };
    let mut selector = Selector::new(vec![round_robin(2)], policy);
    assert_eq!(run(&mut selector, 3, &[(0, 0)]), [Some((0, 1)); 3]);
    let channels = &selector.groups()[0].channels;
    assert_eq!((channels[0].enabled, channels[0].total, channels[1].total), (false, 1, 3));
}

#[test]
fn a_channel_without_a_local_port_is_retried_after_all_others() {
    let mut selector = selector(vec![round_robin(2), group(Method::Hash, &[0]), round_robin(1)]);
    let attempt = selector.first(0).unwrap();
    let attempt = selector.no_local_port(attempt).unwrap();
    assert_eq!((at(&selector, &attempt), attempt.is_retry()), ((0, 1), false));
    let attempt = selector.connect_failed(attempt).unwrap();
    assert_eq!((at(&selector, &attempt), attempt.is_retry()), ((1, 0), false));
    let attempt = selector.no_local_port(attempt).unwrap();
    assert_eq!((at(&selector, &attempt), attempt.is_retry()), ((2, 0), false));
    let mut attempt = selector.connect_failed(attempt).unwrap();
    for position in [(0, 0), (1, 0), (0, 0)] {
        assert_eq!((at(&selector, &attempt), attempt.is_retry()), (position, true));
        attempt = selector.no_local_port(attempt).unwrap();
    }
    // A channel that now fails is not retried, and neither is a disabled one.
    assert_eq!(at(&selector, &attempt), (1, 0));
    let attempt = selector.connect_failed(attempt).unwrap();
    assert_eq!(at(&selector, &attempt), (0, 0));
    selector.set_enabled(ChannelId { group: 0, channel: 0 }, false).unwrap();
    assert!(selector.no_local_port(attempt).is_none());
    let channels: Vec<_> = selector.groups().iter().flat_map(|group| &group.channels).collect();
    assert!(channels.iter().all(|channel| (channel.current, channel.total) == (0, 1)));
}

#[test]
fn a_selector_without_groups_has_no_channel() {
    assert!(Selector::default().first(0).is_none());
}

/// One random event.
#[derive(Clone, Debug)]
enum Event {
    Connect(u32),
    Fail(usize),
    NoPort(usize),
    End(usize),
    Toggle(usize, usize),
    Replace(Vec<GroupConfig>, Policy),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u32>().prop_map(Event::Connect),
        3 => any::<usize>().prop_map(Event::Fail),
        3 => any::<usize>().prop_map(Event::NoPort),
        2 => any::<usize>().prop_map(Event::End),
        1 => (0usize..3, 0usize..5).prop_map(|(g, c)| Event::Toggle(g, c)),
        1 => (group_lists(0), policies()).prop_map(|(groups, policy)| Event::Replace(groups, policy)),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(hash_failover, autodisable)| Policy { hash_failover, autodisable })
}

/// Random groups of at least `min` channels. There are few servers, so two lists share some of them
/// and one list repeats some.
fn group_lists(min: usize) -> impl Strategy<Value = Vec<GroupConfig>> {
    let config = (0u16..5, 0u32..4).prop_map(|(port, max)| {
        let addresses = vec![([127, 0, 0, 1], port).into()];
        ChannelConfig { server: ResolvedServer { addresses, ..ResolvedServer::default() }, max }
    });
    let group =
        (any::<bool>(), prop::collection::vec(config, min..5)).prop_map(|(hash, channels)| {
            GroupConfig { method: if hash { Method::Hash } else { Method::RoundRobin }, channels }
        });
    prop::collection::vec(group, min..4)
}

/// The expected state of the selector.
#[derive(Default)]
struct Model {
    /// Open attempts, each with the channels that the client has tried.
    live: Vec<(Attempt, Tried)>,
    /// Started attempts and ended connections of each channel.
    counts: HashMap<ChannelKey, (u64, u64)>,
}

/// The channels that a client has tried, and the channels that it may retry.
#[derive(Default)]
struct Tried {
    all: HashSet<ChannelKey>,
    no_local_port: HashSet<ChannelKey>,
}

impl Model {
    fn take(&mut self, i: usize) -> Option<(Attempt, Tried)> {
        (!self.live.is_empty()).then(|| self.live.swap_remove(i % self.live.len()))
    }

    fn current(&self, key: ChannelKey) -> usize {
        self.live.iter().filter(|(attempt, _)| attempt.key == key).count()
    }

    /// The expected keys after a replacement of the groups; `None` means a new key.
    fn expected_keys(before: &Selector, config: &[GroupConfig]) -> Vec<Vec<Option<ChannelKey>>> {
        let mut keys = Vec::new();
        for (index, group) in config.iter().enumerate() {
            let current = before.groups.get(index).map_or(&[][..], |group| &group.channels);
            let retired = before.retired.values().filter(|retired| retired.group == index);
            let mut left: Vec<_> = current.iter().chain(retired.map(|r| &r.channel)).collect();
            let mut find = |config: &ChannelConfig| {
                let same = |c: &&Channel| *c.addresses == *config.server.addresses;
                left.iter().position(same).map(|i| left.remove(i).key)
            };
            keys.push(group.channels.iter().map(&mut find).collect());
        }
        keys
    }

    fn check(&self, selector: &Selector) -> Result<(), TestCaseError> {
        let current = selector.groups.iter().flat_map(|group| &group.channels);
        let retired = selector.retired.values().map(|retired| &retired.channel);
        for channel in current.chain(retired) {
            let (attempts, ends) = self.counts.get(&channel.key).copied().unwrap_or_default();
            prop_assert_eq!(channel.current as usize, self.current(channel.key));
            prop_assert_eq!(selector.current(channel.key), channel.current);
            prop_assert_eq!(
                (channel.total, channel.sent, channel.rcvd),
                (attempts, ends * 3, ends * 4)
            );
        }
        for (index, group) in selector.groups.iter().enumerate() {
            prop_assert!(group.next < group.channels.len().max(1));
            for (i, channel) in group.channels.iter().enumerate() {
                let id = ChannelId { group: index, channel: i };
                prop_assert_eq!(selector.position(channel.key), Some(id));
            }
        }
        let gone = self.live.iter().map(|(attempt, _)| attempt.key);
        let gone: BTreeSet<_> = gone.filter(|key| selector.position(*key).is_none()).collect();
        prop_assert!(
            gone.iter().eq(selector.retired.keys()),
            "only channels with connections are retired"
        );
        Ok(())
    }
}

proptest! {
    /// Many clients and replacements in any order. Maxima hold and counters add up. A client tries
    /// no channel twice and never returns to an earlier group, except for retries without a local
    /// port. Disabled channels get no client. A channel in two consecutive lists keeps its key. A
    /// removed channel is dropped with its last connection.
    #[test]
    fn the_invariants_hold_for_any_sequence_of_events(
        groups in group_lists(1),
        policy in policies(),
        events in prop::collection::vec(event(), 1..300),
    ) {
        let mut selector = Selector::new(groups, policy);
        let mut model = Model::default();
        let mut keys = HashSet::new();
        for event in events {
            let next = match event {
                Event::Connect(client) => selector.first(client).map(|a| (a, Tried::default())),
                Event::Fail(i) | Event::NoPort(i) => model.take(i).and_then(|(attempt, mut tried)| {
                    let (from, key, was_retry) = (attempt.group, attempt.key, attempt.is_retry());
                    let next = if matches!(event, Event::NoPort(_)) {
                        tried.no_local_port.insert(key);
                        selector.no_local_port(attempt)
                    } else {
                        tried.no_local_port.remove(&key);
                        selector.connect_failed(attempt)
                    };
                    if next.is_none() {
                        let is_usable = |key: &ChannelKey| selector.position(*key).is_some_and(|id| {
                            selector.groups[id.group].channels[id.channel].is_usable()
                        });
                        assert!(!tried.no_local_port.iter().any(is_usable), "a usable channel was not retried");
                    }
                    let next = next?;
                    assert!(next.is_retry() || next.group >= from, "the search went back to an earlier group");
                    assert!(next.is_retry() || !was_retry, "only retries follow a retry");
                    Some((next, tried))
                }),
                Event::End(i) => {
                    if let Some((attempt, _)) = model.take(i) {
                        model.counts.get_mut(&attempt.key).expect("the attempt was counted").1 += 1;
                        selector.end(attempt, 3, 4);
                    }
                    None
                }
                Event::Toggle(g, c) => {
                    if let Some(channel) = selector.groups.get_mut(g).and_then(|g| g.channels.get_mut(c)) {
                        channel.enabled = !channel.enabled;
                    }
                    None
                }
                Event::Replace(groups, policy) => {
                    let current = selector.groups.iter().flat_map(|group| &group.channels);
                    let enabled: HashMap<_, _> = current.map(|c| (c.key, c.enabled)).collect();
                    keys.extend(enabled.keys().copied());
                    let expected = Model::expected_keys(&selector, &groups);
                    selector.replace(groups.clone(), policy);
                    prop_assert_eq!(selector.groups.len(), groups.len());
                    for ((group, config), expected) in selector.groups.iter().zip(&groups).zip(expected) {
                        prop_assert_eq!(group.method, config.method);
                        prop_assert_eq!(group.channels.len(), config.channels.len());
                        for ((channel, config), key) in group.channels.iter().zip(&config.channels).zip(expected) {
                            prop_assert_eq!(channel.max, config.max);
                            prop_assert_eq!(&*channel.addresses, &*config.server.addresses);
                            match key {
                                Some(key) => prop_assert_eq!(channel.key, key),
                                None => prop_assert!(keys.insert(channel.key), "a key was used twice"),
                            }
                            prop_assert_eq!(channel.enabled, enabled.get(&channel.key).copied().unwrap_or(true));
                        }
                    }
                    None
                }
            };
            if let Some((attempt, mut tried)) = next {
                if attempt.is_retry() {
                    prop_assert!(tried.no_local_port.contains(&attempt.key), "a failed channel was retried");
                } else {
                    model.counts.entry(attempt.key).or_default().0 += 1;
                    prop_assert!(tried.all.insert(attempt.key), "a channel was tried twice");
                }
                let (group, channel) = at(&selector, &attempt);
                let channel = &selector.groups[group].channels[channel];
                prop_assert_eq!(attempt.group, group);
                prop_assert!(channel.enabled);
                prop_assert!(channel.max == 0 || channel.current <= channel.max);
                model.live.push((attempt, tried));
            }
            model.check(&selector)?;
        }
        while let Some((attempt, _)) = model.take(0) {
            model.counts.get_mut(&attempt.key).expect("the attempt was counted").1 += 1;
            selector.end(attempt, 3, 4);
            model.check(&selector)?;
        }
        prop_assert!(selector.retired.is_empty());
    }

    /// However connects and ends interleave, the totals of enabled channels differ by one at most.
    #[test]
    fn round_robin_is_fair_under_concurrency(
        n in 1usize..6,
        ends in prop::collection::vec((any::<bool>(), any::<usize>()), 1..200),
    ) {
        let mut selector = selector(vec![round_robin(n)]);
        let mut live = Vec::new();
        for (end, i) in ends {
            if end && !live.is_empty() {
                selector.end(live.swap_remove(i % live.len()), 0, 0);
            } else {
                live.push(selector.first(i as u32).unwrap());
            }
        }
        let totals: Vec<_> = selector.groups()[0].channels.iter().map(|c| c.total).collect();
        prop_assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= 1);
        for attempt in live {
            selector.end(attempt, 0, 0);
        }
    }

    /// A dead channel does not change the shares of the other channels, wherever it is.
    #[test]
    fn a_dead_channel_leaves_the_shares_of_the_others_even(n in 2usize..6, dead in 0usize..6, clients in 1usize..200) {
        let dead = dead % n;
        let mut selector = selector(vec![round_robin(n)]);
        run(&mut selector, clients, &[(0, dead)]);
        let totals: Vec<_> = selector.groups()[0].channels.iter().enumerate()
            .filter(|(i, _)| *i != dead).map(|(_, c)| c.total).collect();
        prop_assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= 1, "{totals:?}");
    }
}
