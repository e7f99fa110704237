//! Listeners that the process inherits: from a service manager (sd_listen_fds(3)), or from the
//! supervisor.
//!
//! Invariants: an inherited listener serves only at the address that the command line names, unless
//! the supervisor has chosen it. The process that passed it on may keep its own descriptor of the
//! same socket, so a listener is never shut down.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
};

use socket2::Socket;

use crate::{error::StartError, io::listener};

/// The first inherited descriptor (SD_LISTEN_FDS_START of sd_listen_fds(3)).
pub(crate) const FIRST_FD: RawFd = 3;

/// The descriptors that a process inherits from its supervisor beside its listeners.
#[derive(Debug)]
pub struct Supervision {
    /// The read end of a pipe. A byte asks the process to stop; the end of the stream says that the
    /// supervisor is gone.
    pub parent_death_pipe: OwnedFd,
    /// The control socket to serve. The supervisor has bound it to its path.
    pub control: UnixListener,
}

/// Listeners that another process has bound.
#[derive(Debug, Default)]
pub struct InheritedListeners {
    listeners: Vec<Socket>,
    /// Clients may have connected before this process sets its socket options.
    may_have_clients: bool,
    /// The supervisor has chosen the listeners for this process, whatever their addresses are.
    is_chosen: bool,
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
        let descriptors = sd_notify::listen_fds().map_err(failed)?;
        // SAFETY: the manager has opened these descriptors for this process, and by this function's
        // contract nothing in this process owns them.
        let listeners = descriptors.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }.into()).collect();
        Ok(Self { listeners, may_have_clients: true, is_chosen: false })
    }

    /// Takes `count` listeners from the supervisor, and the descriptors that follow them. The
    /// supervisor may have the listeners from a service manager: then they may have clients.
    ///
    /// # Safety
    /// To be called at most once, before this process opens a descriptor, in a process that the
    /// supervisor has started with this many listeners.
    pub unsafe fn from_supervisor(count: usize, may_have_clients: bool) -> (Self, Supervision) {
        let end = FIRST_FD + RawFd::try_from(count).unwrap_or(0);
        // SAFETY: the supervisor has opened these descriptors for this process, and by this
        // function's contract nothing in this process owns them. No descriptor is taken twice.
        let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let listeners = (FIRST_FD..end).map(|fd| own(fd).into()).collect();
        let supervision = Supervision { parent_death_pipe: own(end), control: own(end + 1).into() };
        (Self { listeners, may_have_clients, is_chosen: true }, supervision)
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

    /// Whether no listener is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether accepted sockets may lack the options of this process.
    pub(crate) fn may_have_clients(&self) -> bool {
        self.may_have_clients
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
        if self.is_chosen {
            // The name of the address may resolve to another address by now.
            return Ok(self.listeners);
        }
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
        let mut inherited =
            InheritedListeners { listeners, may_have_clients: true, is_chosen: false };
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
