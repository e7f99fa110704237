//! Takes over the server processes of an earlier supervisor.
//!
//! That supervisor has ended, or has executed another program in its place. Its processes wait at
//! its takeover socket ([`process::takeover`](crate::process)).
//!
//! Invariant: a process that does not reply within [`TIMEOUT`] is ignored.

use std::{io, os::unix::net::UnixListener, path::Path, time::Duration};

use socket2::Socket;
use tokio::{net::UnixStream, sync::mpsc::UnboundedSender, time::timeout};
use tracing::{error, info, warn};

use super::{
    conf::{InstanceName, Line, Position},
    event::Event,
    generation::Generation,
};
use crate::{
    cli,
    error::StartError,
    process::{
        protocol::{self, InstanceLine, Request},
        supervision,
    },
};

/// The longest wait for a process.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A process that this supervisor has taken over.
pub(super) struct TakenProcess {
    pub(super) process: Generation,
    /// The instances that the process accepts for.
    pub(super) instances: Vec<TakenInstance>,
}

/// An instance with its descriptors.
pub(super) struct TakenInstance {
    pub(super) id: u64,
    pub(super) line: InstanceLine,
    pub(super) listeners: Vec<Socket>,
    pub(super) control: UnixListener,
}

/// Takes over all processes that wait at the socket at `path`. `next` is the takeover socket of
/// this supervisor.
pub(super) async fn take_over_all(
    path: &Path,
    next: &UnixListener,
    events: &UnboundedSender<Event>,
) -> Vec<TakenProcess> {
    let mut taken = Vec::new();
    // Each process closes the socket when it has a supervisor.
    while let Ok(Ok(stream)) = timeout(TIMEOUT, UnixStream::connect(path)).await {
        match timeout(TIMEOUT, take_over(stream, next, events)).await {
            Ok(Ok(process)) => {
                info!(
                    pid = process.process.pid,
                    version = process.process.version,
                    instances = process.instances.len(),
                    "server process taken over"
                );
                taken.push(process);
            }
            Ok(Err(error)) => {
                error!(%error, "cannot take over a server process");
                break;
            }
            Err(_) => {
                warn!("a server process without a supervisor does not reply");
                break;
            }
        }
    }
    taken
}

async fn take_over(
    stream: UnixStream,
    next: &UnixListener,
    events: &UnboundedSender<Event>,
) -> io::Result<TakenProcess> {
    let (mut receiver, sender) = supervision::from_stream(stream);
    sender.send(&Request::Supervise, vec![next.try_clone()?.into()]);
    let reply = receiver.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let protocol::Event::Supervised { version, pid, config, is_draining, instances } = reply else {
        return Err(io::Error::other("the process sent another message than its instances"));
    };
    let mut process = Generation::taken_over(pid, version, config, sender);
    let mut accepting = Vec::new();
    for instance in instances {
        process.names.insert(instance.id, name(&instance.line).to_string());
        if instance.listeners == 0 {
            continue;
        }
        let mut fds = receiver.take(instance.listeners + 1)?;
        let control = fds.pop().map(UnixListener::from).ok_or(io::ErrorKind::NotFound)?;
        process.accepting.insert(instance.id);
        accepting.push(TakenInstance {
            id: instance.id,
            line: instance.line,
            listeners: fds.into_iter().map(Socket::from).collect(),
            control,
        });
    }
    if is_draining {
        process.drain();
    }
    process.read(receiver, None, events);
    Ok(TakenProcess { process, instances: accepting })
}

fn name(line: &InstanceLine) -> InstanceName {
    InstanceName { port: line.port, bind: line.bind.clone() }
}

impl From<&Line> for InstanceLine {
    fn from(line: &Line) -> Self {
        Self {
            file: line.position.file.to_path_buf(),
            number: line.position.number,
            ordinal: line.position.ordinal,
            port: line.name.port,
            bind: line.name.bind.clone(),
            words: line.words.clone(),
        }
    }
}

impl TryFrom<InstanceLine> for Line {
    type Error = StartError;

    /// # Errors
    /// When this program does not know the arguments.
    fn try_from(line: InstanceLine) -> Result<Self, StartError> {
        let name = name(&line);
        let args = cli::parse_instance(line.words.clone())?;
        let InstanceLine { file, number, ordinal, words, .. } = line;
        Ok(Self { position: Position { file: file.into(), number, ordinal }, name, words, args })
    }
}
