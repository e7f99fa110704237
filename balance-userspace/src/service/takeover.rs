//! Takes over the server processes of an earlier supervisor.
//!
//! That supervisor has ended, or has executed another program in its place. Its processes wait at
//! its takeover socket ([`process::takeover`](crate::process)).
//!
//! Invariants:
//! - The kernel says which process replies. A process runs as another user, and could name any pid.
//! - A process that does not reply within [`TIMEOUT`] keeps its takeover socket, unless another
//!   process has replied.

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
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most processes that reply wrongly.
const MAX_ERRORS: usize = 16;

/// EX_TEMPFAIL of sysexits(3).
const TRY_AGAIN: u8 = 75;

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
///
/// # Errors
/// [`StartError::Control`] when a process waits and none replies.
pub(super) async fn take_over_all(
    path: &Path,
    next: &UnixListener,
    events: &UnboundedSender<Event>,
) -> Result<Vec<TakenProcess>, StartError> {
    let (mut taken, mut errors) = (Vec::new(), 0);
    // Each process closes the socket when it has a supervisor.
    loop {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            // So many connections wait that a process must be there.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken.is_empty() => {
                return Err(silent(path));
            }
            Err(_) => break,
        };
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
                errors += 1;
                if errors == MAX_ERRORS {
                    break;
                }
            }
            Err(_) if taken.is_empty() => return Err(silent(path)),
            Err(_) => {
                warn!("a server process without a supervisor does not reply");
                break;
            }
        }
    }
    Ok(taken)
}

/// A process waits for a supervisor and does not reply.
fn silent(path: &Path) -> StartError {
    let path = path.display();
    StartError::Control {
        message: format!("the server process at {path} does not reply, it may be stopped"),
        exit_code: TRY_AGAIN,
    }
}

async fn take_over(
    stream: UnixStream,
    next: &UnixListener,
    events: &UnboundedSender<Event>,
) -> io::Result<TakenProcess> {
    let (mut receiver, sender) = supervision::from_stream(stream);
    receiver.ask_for_sender()?;
    sender.send(&Request::Supervise, vec![next.try_clone()?.into()]);
    let reply = receiver.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let protocol::Event::Supervised { version, config, is_draining, instances, .. } = reply else {
        return Err(io::Error::other("the process sent another message than its instances"));
    };
    let pid = receiver.sender().ok_or_else(|| io::Error::other("the sender is unknown"))?;
    let mut process = Generation::taken_over(pid, version, config, sender)?;
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
