//! Changes of single channels and groups while connections are open.
//!
//! Invariants:
//! - These changes add channels and groups and never remove any, so a [`ChannelId`] stays valid
//!   until [`Selector::replace`].
//! - No change affects an open connection.
//! - A rejected change changes nothing.

use std::{collections::BTreeSet, net::SocketAddr, time::SystemTime};

use super::{
    Channel, ChannelId, ChannelKey, ChannelRef, Group, HostName, Method, ResolvedServer, Selector,
    ServerName, names,
};

/// The reason why a change is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The group does not exist.
    NoSuchGroup,
    /// The group has no such channel.
    NoSuchChannel,
    /// Only a disabled channel can get another server.
    NotDisabled,
    /// The index of the group is not below [`MAX_GROUPS`].
    TooManyGroups,
    /// Several channels have the name.
    AmbiguousName,
    /// Another channel has the given name.
    NameInUse,
}

/// Whether an accepted change made a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The value is new.
    Changed,
    /// The value was the same before.
    Unchanged,
}

/// Maximum number of groups. Every group up to the highest index takes memory.
pub const MAX_GROUPS: usize = 1024;

impl Selector {
    /// Returns the channel at a position.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchGroup`], [`ChangeError::NoSuchChannel`].
    pub fn channel(&self, id: ChannelId) -> Result<&Channel, ChangeError> {
        let group = self.groups.get(id.group).ok_or(ChangeError::NoSuchGroup)?;
        group.channels.get(id.channel).ok_or(ChangeError::NoSuchChannel)
    }

    /// Returns the position of the channel that a command names.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchChannel`] for an unknown name, [`ChangeError::AmbiguousName`]. A
    /// position is not checked.
    pub fn find(&self, channel: &ChannelRef) -> Result<ChannelId, ChangeError> {
        let name = match channel {
            ChannelRef::Id(id) => return Ok(*id),
            ChannelRef::Name(name) => name,
        };
        let channels = self.groups.iter().flat_map(|group| &group.channels);
        let mut found = channels.filter(|channel| *channel.name == **name);
        match (found.next().and_then(|channel| self.position(channel.key)), found.next()) {
            (_, Some(_)) => Err(ChangeError::AmbiguousName),
            (id, None) => id.ok_or(ChangeError::NoSuchChannel),
        }
    }

    /// Checks that a new name of a channel, or of a new channel, is free.
    fn check_name(&self, name: &ServerName, id: Option<ChannelId>) -> Result<(), ChangeError> {
        let replaced = id.and_then(|id| self.channel(id).ok()).map(|channel| channel.key);
        let channels = self.groups.iter().flat_map(|group| &group.channels);
        let others = channels.filter(|channel| Some(channel.key) != replaced);
        let all = others.map(|channel| &channel.name_parts).chain([name]);
        names::first_clash(all).map_or(Ok(()), |_| Err(ChangeError::NameInUse))
    }

    fn channel_mut(&mut self, id: ChannelId) -> Result<&mut Channel, ChangeError> {
        let group = self.groups.get_mut(id.group).ok_or(ChangeError::NoSuchGroup)?;
        group.channels.get_mut(id.channel).ok_or(ChangeError::NoSuchChannel)
    }

    /// Enables or disables a channel.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchGroup`], [`ChangeError::NoSuchChannel`].
    pub fn set_enabled(&mut self, id: ChannelId, enabled: bool) -> Result<Effect, ChangeError> {
        let channel = self.channel_mut(id)?;
        let before = std::mem::replace(&mut channel.enabled, enabled);
        Ok(if before == enabled { Effect::Unchanged } else { Effect::Changed })
    }

    /// Sets the counters of a channel to zero.
    ///
    /// `sent` and `rcvd` are the bytes that open connections have moved so far. The counters
    /// exclude these bytes when the connections end.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchGroup`], [`ChangeError::NoSuchChannel`].
    pub fn reset(&mut self, id: ChannelId, sent: u64, rcvd: u64) -> Result<(), ChangeError> {
        let channel = self.channel_mut(id)?;
        channel.total = 0;
        channel.sent = 0u64.wrapping_sub(sent);
        channel.rcvd = 0u64.wrapping_sub(rcvd);
        Ok(())
    }

    /// Adds a disabled channel to a group, and creates the group if necessary.
    ///
    /// # Errors
    /// [`ChangeError::TooManyGroups`], [`ChangeError::NameInUse`].
    pub fn create(
        &mut self,
        group: usize,
        server: ResolvedServer,
    ) -> Result<ChannelId, ChangeError> {
        self.check_name(&server.name, None)?;
        self.group_or_new(group)?;
        let key = self.keys.next();
        let id = self.push(group, Channel { enabled: false, ..Channel::new(key, server, 0) });
        self.update_names();
        Ok(id)
    }

    /// Gives a disabled channel another server. A given name stays, unless the server has another.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchGroup`], [`ChangeError::NoSuchChannel`], [`ChangeError::NotDisabled`],
    /// [`ChangeError::NameInUse`].
    pub fn assign(&mut self, id: ChannelId, server: ResolvedServer) -> Result<(), ChangeError> {
        let channel = self.channel(id)?;
        if channel.enabled {
            return Err(ChangeError::NotDisabled);
        }
        let ResolvedServer { addresses, host_name, name } = server;
        let given = name.given.or_else(|| channel.name_parts.given.clone());
        let name_parts = ServerName { given, ..name };
        self.check_name(&name_parts, Some(id))?;
        let channel = self.channel_mut(id)?;
        channel.addresses = addresses.into();
        channel.host_name = host_name;
        channel.name_parts = name_parts;
        channel.unresolved_since = None;
        self.update_names();
        Ok(())
    }

    /// Returns every channel that is configured by host name, with the name.
    pub fn named_channels(&self) -> Vec<(ChannelKey, HostName)> {
        let channels = self.groups.iter().flat_map(|group| &group.channels);
        channels.filter_map(|channel| Some((channel.key, channel.host_name.clone()?))).collect()
    }

    /// Gives a channel the current addresses of its name.
    ///
    /// Nothing changes if the channel has got another server during the lookup. Nothing changes
    /// either if only the order of the addresses differs, because name servers rotate it.
    pub fn resolved(
        &mut self,
        key: ChannelKey,
        name: &HostName,
        addresses: Vec<SocketAddr>,
    ) -> Effect {
        let Some(channel) = self.named_mut(key, name) else { return Effect::Unchanged };
        channel.unresolved_since = None;
        if BTreeSet::from_iter(&*channel.addresses) == BTreeSet::from_iter(&addresses) {
            return Effect::Unchanged;
        }
        channel.addresses = addresses.into();
        Effect::Changed
    }

    /// Records that the name of a channel does not resolve. The channel keeps its addresses.
    pub fn unresolved(&mut self, key: ChannelKey, name: &HostName, now: SystemTime) {
        if let Some(channel) = self.named_mut(key, name) {
            channel.unresolved_since.get_or_insert(now);
        }
    }

    /// Returns the channel if it still has this name.
    fn named_mut(&mut self, key: ChannelKey, name: &HostName) -> Option<&mut Channel> {
        let channel = self.channel_mut(self.position(key)?).ok()?;
        (channel.host_name.as_ref() == Some(name)).then_some(channel)
    }

    /// Sets the maximum of concurrent connections of a channel; 0 means no limit.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchGroup`], [`ChangeError::NoSuchChannel`].
    pub fn set_max(&mut self, id: ChannelId, max: u32) -> Result<(), ChangeError> {
        self.channel_mut(id)?.max = max;
        Ok(())
    }

    /// Sets the method of a group, and creates the group if necessary.
    ///
    /// # Errors
    /// [`ChangeError::TooManyGroups`].
    pub fn set_method(&mut self, group: usize, method: Method) -> Result<(), ChangeError> {
        self.group_or_new(group)?.method = method;
        Ok(())
    }

    fn group_or_new(&mut self, group: usize) -> Result<&mut Group, ChangeError> {
        if group >= MAX_GROUPS {
            return Err(ChangeError::TooManyGroups);
        }
        while self.groups.len() <= group {
            self.groups.push(Group::new(Method::RoundRobin, Vec::new()));
        }
        Ok(&mut self.groups[group])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::{ChannelConfig, GroupConfig, Policy};

    const FIRST: ChannelId = ChannelId { group: 0, channel: 0 };

    fn address(port: u16) -> Vec<SocketAddr> {
        vec![([127, 0, 0, 1], port).into()]
    }

    fn literal(port: u16) -> ResolvedServer {
        ResolvedServer { addresses: address(port), ..ResolvedServer::default() }
    }

    fn of(method: Method, channels: Vec<ChannelConfig>) -> Selector {
        Selector::new(vec![GroupConfig { method, channels }], Policy::default())
    }

    fn name(host: &str) -> HostName {
        HostName { host: host.to_owned(), port: 1 }
    }

    #[test]
    fn a_created_channel_gets_no_client_until_it_is_enabled() {
        let mut selector = Selector::default();
        let id = selector.create(5, literal(25)).unwrap();
        assert_eq!(id, ChannelId { group: 5, channel: 0 });
        assert!(selector.first(0).is_none());
        assert_eq!(selector.set_enabled(id, true), Ok(Effect::Changed));
        assert_eq!(selector.set_enabled(id, true), Ok(Effect::Unchanged));
        let attempt = selector.first(0).unwrap();
        assert_eq!(selector.position(attempt.key), Some(id));
        selector.end(attempt, 0, 0);
    }

    #[test]
    fn only_a_disabled_channel_gets_another_server() {
        let mut selector =
            of(Method::RoundRobin, vec![ChannelConfig { server: literal(1), max: 0 }]);
        assert_eq!(selector.assign(FIRST, literal(2)), Err(ChangeError::NotDisabled));
        assert_eq!(*selector.channel(FIRST).unwrap().addresses, *address(1));
        selector.set_enabled(FIRST, false).unwrap();
        assert_eq!(selector.assign(FIRST, literal(2)), Ok(()));
        assert_eq!(*selector.channel(FIRST).unwrap().addresses, *address(2));
    }

    #[test]
    fn a_missing_group_and_a_missing_channel_are_different_errors() {
        let mut selector = of(Method::Hash, Vec::new());
        assert_eq!(selector.set_max(FIRST, 1), Err(ChangeError::NoSuchChannel));
        let id = ChannelId { group: 7, channel: 0 };
        assert_eq!(selector.set_enabled(id, true), Err(ChangeError::NoSuchGroup));
        assert_eq!(selector.create(MAX_GROUPS, literal(1)), Err(ChangeError::TooManyGroups));
        assert_eq!(selector.groups().len(), 1);
    }

    #[test]
    fn after_a_reset_only_later_bytes_of_open_connections_count() {
        let mut selector = Selector::default();
        let id = selector.create(0, literal(1)).unwrap();
        selector.set_enabled(id, true).unwrap();
        let attempt = selector.first(0).unwrap();
        selector.reset(id, 100, 7).unwrap();
        selector.end(attempt, 150, 8);
        let channel = selector.channel(id).unwrap();
        assert_eq!((channel.total, channel.sent, channel.rcvd, channel.current), (0, 50, 1, 0));
    }

    #[test]
    fn addresses_in_another_order_change_nothing() {
        let mut selector = Selector::default();
        let ports =
            |ports: &[u16]| ports.iter().flat_map(|&port| address(port)).collect::<Vec<_>>();
        let mx1 = ResolvedServer {
            addresses: ports(&[1, 2, 3]),
            host_name: Some(name("mx1")),
            ..ResolvedServer::default()
        };
        let id = selector.create(0, mx1).unwrap();
        let key = selector.channel(id).unwrap().key;
        assert_eq!(selector.resolved(key, &name("mx1"), ports(&[3, 1, 2])), Effect::Unchanged);
        assert_eq!(*selector.channel(id).unwrap().addresses, *ports(&[1, 2, 3]));
        assert_eq!(selector.resolved(key, &name("mx1"), ports(&[3, 1])), Effect::Changed);
        assert_eq!(selector.resolved(key, &name("mx1"), ports(&[3, 1, 4])), Effect::Changed);
        assert_eq!(*selector.channel(id).unwrap().addresses, *ports(&[3, 1, 4]));
    }

    #[test]
    fn a_resolved_name_is_ignored_after_its_channel_got_another_server() {
        let mut selector = Selector::default();
        let mx1 = ResolvedServer {
            addresses: address(1),
            host_name: Some(name("mx1")),
            ..ResolvedServer::default()
        };
        let id = selector.create(0, mx1).unwrap();
        selector.create(0, literal(9)).unwrap();
        let key = selector.channel(id).unwrap().key;
        assert_eq!(selector.named_channels(), [(key, name("mx1"))]);
        assert_eq!(selector.resolved(key, &name("mx1"), address(1)), Effect::Unchanged);
        let now = SystemTime::UNIX_EPOCH;
        selector.unresolved(key, &name("mx2"), now);
        assert_eq!(selector.channel(id).unwrap().unresolved_since, None);
        selector.unresolved(key, &name("mx1"), now);
        selector.unresolved(key, &name("mx1"), now + std::time::Duration::from_secs(1));
        assert_eq!(selector.channel(id).unwrap().unresolved_since, Some(now));
        assert_eq!(*selector.channel(id).unwrap().addresses, *address(1));
        assert_eq!(selector.resolved(key, &name("mx1"), address(2)), Effect::Changed);
        assert_eq!(selector.channel(id).unwrap().unresolved_since, None);
        assert_eq!(*selector.channel(id).unwrap().addresses, *address(2));
        selector.assign(id, literal(3)).unwrap();
        assert_eq!(selector.resolved(key, &name("mx1"), address(2)), Effect::Unchanged);
        assert_eq!(*selector.channel(id).unwrap().addresses, *address(3));
        assert_eq!(selector.named_channels(), []);
        selector
            .assign(
                id,
                ResolvedServer {
                    addresses: address(4),
                    host_name: Some(name("mx2")),
                    ..ResolvedServer::default()
                },
            )
            .unwrap();
        assert_eq!(selector.named_channels(), [(key, name("mx2"))]);
    }
}
