//! Listeners that the process inherits from a service manager (sd_listen_fds(3)).
//!
//! Invariants: an inherited listener serves only at the address that the command line names. The
//! process that passed it on may keep its own descriptor of the same socket, so a listener is never
//! shut down.

use std::{
    io,
    net::SocketAddr,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use socket2::Socket;

use crate::{error::StartError, io::listener};

/// The first inherited descriptor (SD_LISTEN_FDS_START of sd_listen_fds(3)).
pub(crate) const FIRST_FD: RawFd = 3;

/// Listeners that another process has bound.
#[derive(Debug, Default)]
pub struct InheritedListeners {
    listeners: Vec<Socket>,
    /// Listeners that a process of this service has kept in the manager's descriptor store.
    stored: Vec<(String, Socket)>,
}

/// The beginning of the names of stored listeners (LISTEN_FDNAMES).
pub(crate) const STORED: &str = "stored.";

impl From<Vec<Socket>> for InheritedListeners {
    fn from(listeners: Vec<Socket>) -> Self {
        Self { listeners, ..Self::default() }
    }
}

impl InheritedListeners {
    /// Takes the listeners of the service manager (LISTEN_FDS); none if there is no service
    /// manager.
    ///
    /// # Errors
    /// When LISTEN_FDS is invalid.
    ///
    /// # Safety
    /// To be called at most once, before this process opens a descriptor.
    pub unsafe fn from_service_manager() -> Result<Self, StartError> {
        let failed = |source| StartError::System { act: "take the sockets of LISTEN_FDS", source };
        let descriptors = sd_notify::listen_fds_with_names().map_err(failed)?;
        let mut inherited = Self::default();
        for (fd, name) in descriptors {
            // SAFETY: the manager has opened these descriptors for this process, and by this
            // function's contract nothing in this process owns them.
            let listener = unsafe { OwnedFd::from_raw_fd(fd) }.into();
            if name.starts_with(STORED) {
                inherited.stored.push((name, listener));
            } else {
                inherited.listeners.push(listener);
            }
        }
        Ok(inherited)
    }

    /// Takes the stored listeners at an address.
    pub(crate) fn take_stored(&mut self, address: SocketAddr) -> Vec<Socket> {
        let (found, rest) =
            std::mem::take(&mut self.stored).into_iter().partition(|(_, socket)| {
                listener::local_address(socket).is_some_and(|at| is_same(at, address))
            });
        self.stored = rest;
        let found: Vec<(String, Socket)> = found;
        found.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Closes the stored listeners that nothing has taken, and returns their names.
    pub(crate) fn close_stored(&mut self) -> Vec<String> {
        let mut names: Vec<_> = self.stored.drain(..).map(|(name, _)| name).collect();
        names.dedup();
        names
    }

    /// Puts back listeners that [`InheritedListeners::take`] has taken, for a later use.
    pub(crate) fn give_back(&mut self, listeners: &mut Vec<Socket>) {
        self.listeners.append(listeners);
    }

    /// The addresses of the listeners that are not taken, for a log line.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(describe).collect()
    }

    /// All listeners that are not taken.
    pub(crate) fn into_listeners(self) -> Vec<Socket> {
        self.listeners
    }

    /// All listeners that are not taken.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.listeners.iter()
    }

    /// The addresses of all listeners that are not taken.
    pub(crate) fn addresses_in_use(&self) -> InheritedAddresses {
        let stored = self.stored.iter().map(|(_, socket)| socket);
        let addresses = self.listeners.iter().chain(stored).filter_map(listener::local_address);
        InheritedAddresses(addresses.collect())
    }

    /// Whether no listener is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Takes the listeners at an address.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Vec<Socket> {
        let (found, rest) = std::mem::take(&mut self.listeners).into_iter().partition(|socket| {
            listener::local_address(socket).is_some_and(|at| is_same(at, address))
        });
        self.listeners = rest;
        found
    }

    /// Takes the listeners at an address, and accepts no others.
    ///
    /// # Errors
    /// [`StartError::Listen`] when a listener is at another address.
    pub(crate) fn take_all(mut self, address: SocketAddr) -> Result<Vec<Socket>, StartError> {
        let found = self.take(address);
        match self.listeners.first() {
            None => Ok(found),
            Some(other) => {
                let reason = format!("the inherited socket is bound to {}", describe(other));
                let source = io::Error::other(reason);
                Err(StartError::Listen { address: address.to_string(), source })
            }
        }
    }
}

/// Addresses that listeners of another process are bound to.
pub(crate) struct InheritedAddresses(Vec<SocketAddr>);

impl InheritedAddresses {
    /// Whether a listener serves this address.
    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|at| is_same(*at, address))
    }
}

fn describe(listener: &Socket) -> String {
    listener::local_address(listener).map_or("no TCP address".to_owned(), |at| at.to_string())
}

/// Whether a listener at `at` serves the address `wanted`. A service manager may have bound 0.0.0.0
/// in place of [::], and IPv4-mapped addresses in place of IPv4.
fn is_same(at: SocketAddr, wanted: SocketAddr) -> bool {
    let both_all = at.ip().is_unspecified() && wanted.ip().is_unspecified();
    at.port() == wanted.port() && (both_all || at.ip().to_canonical() == wanted.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_taken_only_for_its_own_address() {
        let socket = || listener::bind(Some([127, 0, 0, 1].into()), 0, 1).unwrap().remove(0);
        let (one, other) = (socket(), socket());
        let at = listener::local_address(&one).unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), at.port());
        let listeners = vec![other, one];
        let mut inherited = InheritedListeners::from(listeners);
        assert!(inherited.take(SocketAddr::new([127, 0, 0, 2].into(), at.port())).is_empty());
        assert_eq!(inherited.take(mapped).len(), 1);
        assert!(inherited.take(at).is_empty());
        let error = inherited.take_all(at).unwrap_err();
        assert!(
            error.to_string().contains("the inherited socket is bound to 127.0.0.1:"),
            "{error}"
        );
    }
}
