//! Talks to a running balance: a connection to its socket, one request and one reply at a time.
//!
//! Invariant: no wait is without an end, except for the reply to a `drain` or a `reload`. ScriptOutcome an error the
//! connection is not used again: a late reply would answer the wrong request.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::{
    protocol::{ControlCommand, Handshake, REPLY_LIMIT, Request, ServerReply, VERSION},
    run_dir::RunDirError,
};
use crate::error::{StartError, one_line};

/// The longest wait for the connection, and for the first reply on it.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest wait for any other reply.
const REPLY: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no master process, exiting.")]
    NoMaster,
    /// The one that was there is no more.
    #[error("no master process with pid {0}, exiting.")]
    Gone(u32),
    /// The one that is there speaks another version.
    #[error("release mismatch, expecting {VERSION}, got {0}, exiting.")]
    Release(u32),
    /// The one that is there does not speak as we do, and not even says which version it speaks.
    #[error("release mismatch, expecting {VERSION}, got another, exiting.")]
    Stranger,
    /// It does not talk to us.
    #[error("the master refuses: {0}")]
    Refused(String),
    /// The socket belongs to somebody whom we need not believe.
    #[error("the master belongs to user {0}; give its --run-dir to talk to it all the same")]
    Foreign(u32),
    /// It takes too long. Perhaps it is stopped; to be retried.
    #[error("the master does not answer")]
    Timeout,
    /// Its reply is no answer to the request: perhaps it is newer than its version says.
    #[error("the reply of the master cannot be read; is it of another release?")]
    Unreadable,
    /// The kernel does not let us connect: in most cases a matter of permissions.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("cannot talk to the master: {0}")]
    Socket(io::Error),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Commands cannot be read.
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
            Self::Release(_) | Self::Stranger | Self::Unreadable => 65,
            Self::NoMaster | Self::Gone(_) | Self::Timeout => 69,
            Self::Refused(_) | Self::Connect { .. } | Self::Socket(_) => 71,
            Self::Input(_) | Self::Output(_) => 74,
            Self::Foreign(_) => 77,
            Self::RunDir(e) => e.exit_code(),
        }
    }

    /// Tells it where the classic told it, and returns the exit code.
    pub fn report(&self, out: &mut dyn io::Write, err: &mut dyn io::Write) -> u8 {
        let text = one_line(&self.to_string());
        // Whoever does not listen gets the exit code alone.
        let _ = match self {
            Self::NoMaster | Self::Gone(_) | Self::Release(_) | Self::Stranger => {
                writeln!(out, "{text}")
            }
            Self::Output(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            _ => writeln!(err, "balance: {text}"),
        };
        let _ = out.flush();
        self.exit_code()
    }
}

/// A connection to a running balance.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl ControlClient {
    /// Connects and makes sure that it is a balance that we understand.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] when nobody takes the connection, [`ClientError::Release`],
    /// [`ClientError::Stranger`], [`ClientError::Refused`], [`ClientError::Timeout`],
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let mut client =
            Self { stream: BufReader::new(open(path).map_err(not_there(path))?), pid: 0 };
        let line = client.exchange(Handshake::Hello, Some(CONNECT)).map_err(not_there(path))?;
        match serde_json::from_slice(&line) {
            Ok(ServerReply::Hello { pid, .. }) => Ok(Self { pid, ..client }),
            Ok(ServerReply::Mismatch { version }) => Err(ClientError::Release(version)),
            Ok(ServerReply::Refused(why)) => Err(ClientError::Refused(why)),
            _ => Err(ClientError::Stranger),
        }
    }

    /// Process id of the running balance, as it sees itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The user that the running balance belongs to, as the kernel says.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub fn user(&self) -> Result<u32, ClientError> {
        let peer = getsockopt(self.stream.get_ref(), sockopt::PeerCredentials);
        peer.map(|peer| peer.uid()).map_err(|e| ClientError::Socket(e.into()))
    }

    /// Asks and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when it ends instead, [`ClientError::Timeout`],
    /// [`ClientError::Release`], [`ClientError::Unreadable`], [`ClientError::Socket`].
    pub fn ask<C: ControlCommand>(&mut self, command: C) -> Result<C::Reply, ClientError> {
        let wait = if command.has_no_time_limit() { None } else { Some(REPLY) };
        let line = self.exchange(command, wait).map_err(|e| match e.kind() {
            kind if broken(kind) => ClientError::Gone(self.pid),
            kind if late(kind) => ClientError::Timeout,
            _ => ClientError::Socket(e),
        })?;
        serde_json::from_slice(&line).map_err(|_| match serde_json::from_slice(&line) {
            Ok(ServerReply::Mismatch { version }) => ClientError::Release(version),
            _ => ClientError::Unreadable,
        })
    }

    /// Sends a request and reads a line.
    fn exchange(&mut self, command: impl Serialize, wait: Option<Duration>) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })?;
        line.push(b'\n');
        self.stream.get_ref().set_read_timeout(wait)?;
        self.stream.get_mut().write_all(&line)?;
        line.clear();
        (&mut self.stream).take(REPLY_LIMIT as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It bounds the connect too: unix_stream_connect (net/unix/af_unix.c) waits for room in the
    // listen queue as long as for room to send.
    socket.set_write_timeout(Some(CONNECT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// The error of a connection that does not come about.
fn not_there(path: &Path) -> impl Fn(io::Error) -> ClientError {
    move |source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused => {
            ClientError::NoMaster
        }
        kind if broken(kind) => ClientError::NoMaster,
        kind if late(kind) => ClientError::Timeout,
        _ => ClientError::Connect { path: path.to_owned(), source },
    }
}

fn broken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn late(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
