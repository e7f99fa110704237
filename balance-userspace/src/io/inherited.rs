//! Listeners that came with the process: from a service manager (sd_listen_fds(3)), or from our
//! supervisor.
//!
//! Invariant: a listener is used only where the command line says to listen, and the process that
//! handed it over may go on to hold it.

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

/// The first descriptor that is handed over, as sd_listen_fds(3) has it.
pub(crate) const FIRST: RawFd = 3;

/// What a process has from its supervisor beside its listeners.
#[derive(Debug)]
pub struct Supervision {
    /// A pipe: a byte tells the process to leave, its end that the supervisor is gone.
    pub parent_death_pipe: OwnedFd,
    /// The control socket that it serves; the supervisor has its name.
    pub control: UnixListener,
}

/// Listeners that were made by somebody else.
#[derive(Debug, Default)]
pub struct InheritedListeners {
    listeners: Vec<Socket>,
    /// Somebody may have connected before our options were set.
    listened: bool,
    /// They are for this process, wherever they are: its supervisor knows.
    is_certain: bool,
}

impl InheritedListeners {
    /// Those of the service manager, none if there is none. To be called once, at the start.
    ///
    /// # Errors
    /// When the manager says what cannot be.
    pub fn from_service_manager() -> Result<Self, StartError> {
        let failed = |source| StartError::System { act: "take the sockets of LISTEN_FDS", source };
        let listeners = sd_notify::listen_fds().map_err(failed)?;
        let listeners = listeners.map(|fd| own(fd).into()).collect();
        Ok(Self { listeners, listened: true, is_certain: false })
    }

    /// So many from our supervisor, which may have them from a service manager, and what comes with them. To be
    /// called once, at the start.
    pub fn from_supervisor(count: usize, listened: bool) -> (Self, Supervision) {
        let end = FIRST + RawFd::try_from(count).unwrap_or(0);
        let listeners = (FIRST..end).map(|fd| own(fd).into()).collect();
        let supervision = Supervision { parent_death_pipe: own(end), control: own(end + 1).into() };
        (Self { listeners, listened, is_certain: true }, supervision)
    }

    /// Gives listeners back that [`InheritedListeners::take`] has taken: they cannot be had again elsewhere.
    pub(crate) fn give_back(&mut self, listeners: &mut Vec<Socket>) {
        self.listeners.append(listeners);
    }

    /// Where those are that nobody has taken.
    pub(crate) fn left(&self) -> Vec<String> {
        let at =
            |socket| listener::local(socket).map_or("no TCP address".to_owned(), |a| a.to_string());
        self.listeners.iter().map(at).collect()
    }

    /// All of them, to be handed on.
    pub(crate) fn into_listeners(self) -> Vec<Socket> {
        self.listeners
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether sockets that are accepted may lack our options.
    pub(crate) fn listened(&self) -> bool {
        self.listened
    }

    /// Takes those that are at an address.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Vec<Socket> {
        let (found, rest) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|socket| listener::local(socket).is_some_and(|at| is_same(at, address)));
        self.listeners = rest;
        found
    }

    /// The same, if there are no others.
    ///
    /// # Errors
    /// [`StartError::Listen`] when it was handed listeners, but not these.
    pub(crate) fn take_all(mut self, address: SocketAddr) -> Result<Vec<Socket>, StartError> {
        if self.is_certain {
            // A name may have another address by now.
            return Ok(self.listeners);
        }
        let found = self.take(address);
        match self.listeners.first() {
            None => Ok(found),
            Some(other) => {
                let other =
                    listener::local(other).map_or("no TCP address".to_owned(), |at| at.to_string());
                let why = format!("the socket that was handed over is at {other}");
                let source = io::Error::other(why);
                Err(StartError::Listen { address: address.to_string(), source })
            }
        }
    }
}

/// A manager may have made a socket for both families, or for IPv4 alone.
fn is_same(at: SocketAddr, wanted: SocketAddr) -> bool {
    let both_all = at.ip().is_unspecified() && wanted.ip().is_unspecified();
    at.port() == wanted.port() && (both_all || at.ip().to_canonical() == wanted.ip().to_canonical())
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: whoever started us has put a descriptor there for us, and nobody else in this process
    // has opened one at such a number: it is asked for once, before anything is opened.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_used_where_it_is_wanted_and_nowhere_else() {
        let socket = || listener::bind(Some([127, 0, 0, 1].into()), 0, 1).unwrap().remove(0);
        let (one, other) = (socket(), socket());
        let at = listener::local(&one).unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), at.port());
        let mut handed =
            InheritedListeners { listeners: vec![other, one], listened: true, is_certain: false };
        assert!(handed.take(SocketAddr::new([127, 0, 0, 2].into(), at.port())).is_empty());
        assert_eq!(handed.take(mapped).len(), 1);
        assert!(handed.take(at).is_empty());
        let error = handed.take_all(at).unwrap_err();
        assert!(
            error.to_string().contains("the socket that was handed over is at 127.0.0.1:"),
            "{error}"
        );
    }
}
