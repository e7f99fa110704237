//! The takeover of a server process by another supervisor.
//!
//! 1. A supervisor gives its takeover socket to each of its processes. The process keeps that
//!    socket, and duplicates of the descriptors of each instance.
//! 2. The supervisor ends. The process continues to serve, and accepts on the takeover socket.
//! 3. Another supervisor connects and sends [`Request::Supervise`] with its own takeover socket.
//!    The process replies with its instances and their descriptors.
//!
//! Invariants:
//! - A process has at most one supervisor: it accepts on the socket only without one.
//! - An instance that is stopping has no duplicate of a listener here, because the clients of a
//!   listener without an acceptor would wait.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, unix::net},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tracing::{debug, error};

use super::{
    protocol::{Event, InstanceLine, Request, SpawnConfig, SupervisedInstance},
    supervision::{self, Receiver, Sender},
};

/// The longest wait for the first request of a supervisor that has connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The socket to a supervisor that has taken this process over.
pub(super) type SupervisorSocket = (Receiver, Sender);

/// The state that another supervisor needs.
pub(super) struct Takeover {
    /// `None` in a process that no supervisor has started.
    config: Option<SpawnConfig>,
    listener: Option<UnixListener>,
    instances: BTreeMap<u64, Kept>,
    found: UnboundedReceiver<(SupervisorSocket, UnixListener)>,
    sender: UnboundedSender<(SupervisorSocket, UnixListener)>,
}

/// An instance, and duplicates of its listeners and, at the end, of its control socket.
struct Kept {
    line: InstanceLine,
    fds: Vec<OwnedFd>,
}

impl Takeover {
    /// `config` comes from the supervisor that has started the process, if one has.
    pub(super) fn new(config: Option<SpawnConfig>) -> Self {
        let (sender, found) = unbounded_channel();
        Self { config, listener: None, instances: BTreeMap::new(), found, sender }
    }

    /// Takes the takeover socket of the present supervisor.
    pub(super) fn set_listener(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.listener = Some(listener(fd)?);
        Ok(())
    }

    /// Keeps duplicates of the descriptors of an instance.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn keep(&mut self, id: u64, line: InstanceLine, fds: &[OwnedFd]) -> io::Result<()> {
        let fds = fds.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        self.instances.insert(id, Kept { line, fds });
        Ok(())
    }

    /// The instance has other arguments.
    pub(super) fn set_line(&mut self, id: u64, line: InstanceLine) {
        if let Some(kept) = self.instances.get_mut(&id) {
            kept.line = line;
        }
    }

    /// The instance stops accepting.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(kept) = self.instances.get_mut(&id) {
            kept.fds.clear();
        }
    }

    /// All instances stop accepting.
    pub(super) fn release_all(&mut self) {
        self.instances.values_mut().for_each(|kept| kept.fds.clear());
    }

    /// The instance has ended.
    pub(super) fn forget(&mut self, id: u64) {
        self.instances.remove(&id);
    }

    /// Accepts another supervisor from now on. Returns false without a takeover socket.
    pub(super) fn begin(&mut self) -> bool {
        let Some(listener) = self.listener.take() else { return false };
        tokio::spawn(accept(listener, self.sender.clone()));
        true
    }

    /// Waits for another supervisor.
    pub(super) async fn next(&mut self) -> SupervisorSocket {
        let (socket, listener) = self.found.recv().await.expect("a sender is held here");
        self.listener = Some(listener);
        socket
    }

    /// The reply to [`Request::Supervise`], and its descriptors. An instance whose descriptors
    /// cannot be duplicated has none in the reply: the supervisor then binds its own listeners.
    pub(super) fn reply(&self, is_draining: bool) -> Option<(Event, Vec<OwnedFd>)> {
        let config = self.config.clone()?;
        let mut all = Vec::new();
        let instances = self.instances.iter().map(|(&id, kept)| {
            let fds = kept.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
            let fds = fds.unwrap_or_else(|error| {
                error!(%error, "cannot pass listeners to the supervisor");
                Vec::new()
            });
            let listeners = fds.len().saturating_sub(1);
            all.extend(fds);
            SupervisedInstance { id, line: kept.line.clone(), listeners }
        });
        let event = Event::Supervised {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config,
            is_draining,
            instances: instances.collect(),
        };
        Some((event, all))
    }
}

fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Accepts connections until one of them sends [`Request::Supervise`].
async fn accept(socket: UnixListener, found: UnboundedSender<(SupervisorSocket, UnixListener)>) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept a supervisor");
                tokio::time::sleep(REQUEST_TIMEOUT).await;
                continue;
            }
        };
        let (mut receiver, sender) = supervision::from_stream(stream);
        let Ok(Ok(Some(Request::Supervise))) = timeout(REQUEST_TIMEOUT, receiver.next()).await
        else {
            continue;
        };
        // The process may have been suspended for longer than a supervisor waits.
        if receiver.is_closed() {
            continue;
        }
        let Ok(next) = receiver.take(1).and_then(|mut fds| listener(fds.remove(0))) else {
            continue;
        };
        let _ = found.send(((receiver, sender), next));
        return;
    }
}
