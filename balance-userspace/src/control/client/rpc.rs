//! Requests and replies on a control socket, one at a time.
//!
//! Invariants: every wait has a timeout, except the wait for the reply to a `drain` or a `reload`. A
//! client with a deadline does not wait beyond it.
//! After an error the connection is not used again, because a late reply would answer the wrong
//! request.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

use super::permission;
use crate::control::{
    protocol::{ControlCommand, Handshake, REPLY_LIMIT, Request, SocketReply, VERSION},
    run_dir::RunDirError,
};
use crate::error::{StartError, one_line};

/// The longest wait for the connection, and for the reply to the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait for any other reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why a request has no reply. The texts of [`Self::NoMaster`] to
/// [`Self::UnknownProtocol`] are those of the classic.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the socket, and no instance has the name.
    #[error("{0}: no service and no running instance has this name")]
    NoSuchInstance(String),
    /// Several instances have the name.
    #[error("several instances have the name {name}: {}", found.join(", "))]
    AmbiguousInstance {
        /// The name.
        name: String,
        /// Port and address of each.
        found: Vec<String>,
    },
    /// No process listens on the socket.
    #[error("no master process, exiting.")]
    NoMaster,
    /// No process listens on the socket, but instances listen on the port with another `-b`.
    #[error("no master process, exiting.")]
    OtherBind {
        /// The port.
        port: u16,
        /// The texts of `-b` of these instances.
        others: Vec<String>,
    },
    /// The process with this id has ended.
    #[error("no master process with pid {0}, exiting.")]
    Gone(u32),
    /// The process speaks this other version of the protocol.
    #[error("release mismatch, expecting {VERSION}, got {0}, exiting.")]
    Release(u32),
    /// The process speaks another protocol, without a version.
    #[error("release mismatch, expecting {VERSION}, got another, exiting.")]
    UnknownProtocol,
    /// The process refuses the request; the reason.
    #[error("the running balance refuses the request: {0}")]
    Refused(String),
    /// The user may not give this command.
    #[error("permission denied: only {} may {} the running balance", permission::root_and(*owner),
            if *may_read { "change" } else { "use" })]
    Denied {
        /// The user who may, beside root.
        owner: u32,
        /// Whether the user may read.
        may_read: bool,
    },
    /// The user may not connect.
    #[error("permission denied: {}", permission::to_connect(.0))]
    NoAccess(
        /// The socket.
        PathBuf,
    ),
    /// The process belongs to this user, and clients do not trust other users.
    #[error("the control socket belongs to user {0}; name its directory by --run-dir to use it")]
    ForeignUser(u32),
    /// No reply in time; the process may be suspended. A retry may succeed.
    #[error("the running balance does not answer")]
    Timeout,
    /// The reply does not fit the request. The process may be of another release.
    #[error("cannot read the reply: the running balance may be of another release")]
    Unreadable,
    /// The connect failed.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot talk to the running balance: {0}")]
    Socket(io::Error),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The commands cannot be read.
    #[error("cannot read commands: {0}")]
    Input(io::Error),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

impl From<ClientError> for StartError {
    fn from(error: ClientError) -> Self {
        Self::Control { message: error.to_string(), exit_code: error.exit_code() }
    }
}

impl ClientError {
    /// Exit code of sysexits(3), as the classic used them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Release(_) | Self::UnknownProtocol | Self::Unreadable => 65,
            Self::AmbiguousInstance { .. } => 64,
            Self::NoSuchInstance(_)
            | Self::NoMaster
            | Self::OtherBind { .. }
            | Self::Gone(_)
            | Self::Timeout => 69,
            Self::Refused(_) | Self::Connect { .. } | Self::Socket(_) => 71,
            Self::Input(_) | Self::Output(_) => 74,
            Self::Denied { .. } | Self::NoAccess(_) | Self::ForeignUser(_) => 77,
            Self::RunDir(e) => e.exit_code(),
        }
    }

    /// Prints the error on the stream where the classic printed it. Returns the exit code.
    pub fn report(&self, out: &mut dyn io::Write, err: &mut dyn io::Write) -> u8 {
        let text = one_line(&self.to_string());
        // If the stream is closed, the exit code alone reports the error.
        let _ = match self {
            Self::NoMaster | Self::Gone(_) | Self::Release(_) | Self::UnknownProtocol => {
                writeln!(out, "{text}")
            }
            Self::OtherBind { port, others } => {
                let others: Vec<_> = others.iter().map(|bind| format!("-b {bind}")).collect();
                let hint = one_line(&others.join(" or "));
                writeln!(out, "{text}").and_then(|()| {
                    writeln!(err, "balance: an instance runs on port {port} with {hint}")
                })
            }
            Self::Output(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            _ => writeln!(err, "balance: {text}"),
        };
        let _ = out.flush();
        self.exit_code()
    }
}

/// A connection to a running process.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    pid: u32,
    name: Option<String>,
    /// The end of all waits.
    deadline: Option<Instant>,
}

impl ControlClient {
    /// Connects and checks the version of the protocol.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] when no process accepts the connection, [`ClientError::Release`],
    /// [`ClientError::UnknownProtocol`], [`ClientError::Refused`], [`ClientError::Denied`],
    /// [`ClientError::Timeout`], [`ClientError::NoAccess`], [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_until(path, None)
    }

    /// Does the same. Neither this wait nor a later one ends after the deadline.
    ///
    /// # Errors
    /// Those of [`ControlClient::connect`].
    pub fn connect_until(path: &Path, deadline: Option<Instant>) -> Result<Self, ClientError> {
        let stream = open(path, deadline).map_err(connect_error(path))?;
        let mut client = Self { stream: BufReader::new(stream), pid: 0, name: None, deadline };
        let line = client
            .exchange(Handshake::Hello, Some(CONNECT_TIMEOUT))
            .map_err(connect_error(path))?;
        match serde_json::from_slice(&line) {
            Ok(SocketReply::Hello { pid, name, .. }) => Ok(Self { pid, name, ..client }),
            Ok(SocketReply::Mismatch { version }) => Err(ClientError::Release(version)),
            Ok(SocketReply::Refused(why)) => Err(ClientError::Refused(why)),
            Ok(SocketReply::Denied { owner, may_read }) => {
                Err(ClientError::Denied { owner, may_read })
            }
            _ => Err(ClientError::UnknownProtocol),
        }
    }

    /// Process id, as reported by the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Name of the instance, as reported by the process.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The user of the process, as reported by the kernel.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub fn user(&self) -> Result<u32, ClientError> {
        let peer = getsockopt(self.stream.get_ref(), sockopt::PeerCredentials);
        peer.map(|peer| peer.uid()).map_err(|e| ClientError::Socket(e.into()))
    }

    /// Sends a command and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the process ends before its reply, [`ClientError::Timeout`],
    /// [`ClientError::Release`], [`ClientError::Unreadable`], [`ClientError::Socket`].
    /// [`ClientError::Denied`] is the reply to this request, so the connection can be used again.
    pub fn ask<C: ControlCommand>(&mut self, command: C) -> Result<C::Reply, ClientError> {
        let wait = if command.has_no_time_limit() { None } else { Some(REPLY_TIMEOUT) };
        let line = self.exchange(command, wait).map_err(|e| match e.kind() {
            kind if is_broken(kind) => ClientError::Gone(self.pid),
            kind if is_timeout(kind) => ClientError::Timeout,
            _ => ClientError::Socket(e),
        })?;
        serde_json::from_slice(&line).map_err(|_| match serde_json::from_slice(&line) {
            Ok(SocketReply::Mismatch { version }) => ClientError::Release(version),
            Ok(SocketReply::Denied { owner, may_read }) => ClientError::Denied { owner, may_read },
            _ => ClientError::Unreadable,
        })
    }

    /// Sends a request and reads one line.
    fn exchange(&mut self, command: impl Serialize, wait: Option<Duration>) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })?;
        line.push(b'\n');
        self.stream.get_ref().set_read_timeout(limited(wait, self.deadline)?)?;
        let broken = match self.stream.get_mut().write_all(&line) {
            Err(error) if !is_broken(error.kind()) => return Err(error),
            written => written.err(),
        };
        line.clear();
        // A process that refuses a client replies before it has read the request.
        (&mut self.stream).take(REPLY_LIMIT as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(broken.unwrap_or_else(|| ErrorKind::UnexpectedEof.into()));
        }
        Ok(line)
    }
}

/// The shorter of a wait and the time to the deadline.
///
/// # Errors
/// [`ErrorKind::TimedOut`] after the deadline.
fn limited(wait: Option<Duration>, deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let Some(deadline) = deadline else { return Ok(wait) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(Some(wait.map_or(left, |wait| wait.min(left))))
}

fn open(path: &Path, deadline: Option<Instant>) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The write timeout limits the connect too: unix_stream_connect (net/unix/af_unix.c) waits for
    // space in the listen queue as long as for space to send.
    socket.set_write_timeout(limited(Some(CONNECT_TIMEOUT), deadline)?)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// The error of a failed connect or handshake.
fn connect_error(path: &Path) -> impl Fn(io::Error) -> ClientError {
    move |source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused => {
            ClientError::NoMaster
        }
        kind if is_broken(kind) => ClientError::NoMaster,
        ErrorKind::PermissionDenied => ClientError::NoAccess(path.to_owned()),
        kind if is_timeout(kind) => ClientError::Timeout,
        _ => ClientError::Connect { path: path.to_owned(), source },
    }
}

fn is_broken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
