//! The process of one instance.
//!
//! Invariants:
//! - The process is a child of the supervisor, and only its task in [`Process::spawn`] waits for
//!   it.
//! - The process inherits the listeners, its control socket and the read end of its parent death
//!   pipe, and no other descriptor.
//! - The process drains and ends when the supervisor is gone.

use std::{
    io::{self, PipeWriter, Write as _},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Instant,
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::Socket;
use tokio::{process::Command, sync::mpsc::UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{
    conf::Line,
    event::Event,
    notify_socket::Notification,
    spawn_config::{SpawnConfig, VARIABLE},
};
use crate::{io::inherited, notify};

/// What all processes of a supervisor share.
#[derive(Debug)]
pub(super) struct SpawnContext {
    /// Path of the socket for their notifications.
    pub(super) notify_socket: PathBuf,
    /// Receives the exit of each process.
    pub(super) events: UnboundedSender<Event>,
}

/// A process whose end is not known yet.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Time of its READY notification.
    pub(super) serving: Option<Instant>,
    /// The process has reported that it accepts no more.
    pub(super) is_draining: bool,
    /// Its last status text, or the reason for its end.
    pub(super) status: String,
    /// Its last reported number of open connections.
    pub(super) connections: u64,
    /// Cancelled when the process has closed its listeners, or has ended.
    pub(super) released: CancellationToken,
    /// The write end of a pipe. A byte asks the process to drain without a time limit. End of file
    /// means that the supervisor is gone: the process drains within its grace time.
    parent_death_pipe: PipeWriter,
}

impl Process {
    /// Spawns a process for a line. Its end arrives as [`Event::Exited`].
    pub(super) fn spawn(
        line: &Line,
        listeners: &[Socket],
        control: UnixListener,
        config: &SpawnConfig,
        spawn_context: &SpawnContext,
    ) -> io::Result<Self> {
        let fds = listeners.iter().map(|listener| Ok(listener.try_clone()?.into()));
        let (read_end, parent_death_pipe) = io::pipe()?;
        let fds = fds.chain([Ok(read_end.into()), Ok(control.into())]);
        let fds = fds.collect::<io::Result<Vec<OwnedFd>>>()?;
        let fds = (inherited::FIRST_FD..).zip(fds);
        let fds = fds.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        // The same program, even if an upgrade has replaced the file.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("balance")
            .args(&line.words)
            .env(VARIABLE, config.to_json())
            .env("NOTIFY_SOCKET", &spawn_context.notify_socket)
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null());
        if config.background {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.fd_mappings(fds).map_err(io::Error::other)?;
        let mut child = command.spawn()?;
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let events = spawn_context.events.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            // The supervisor may be gone already.
            let _ = events.send(Event::Exited(pid, status));
        });
        Ok(Self {
            pid,
            serving: None,
            is_draining: false,
            status: String::new(),
            connections: 0,
            released: CancellationToken::new(),
            parent_death_pipe,
        })
    }

    /// Updates the state from a notification of the process.
    pub(super) fn apply(&mut self, notification: &Notification) {
        if notification.get("READY").is_some() && self.serving.is_none() {
            self.serving = Some(Instant::now());
        }
        self.is_draining |= notification.get("STOPPING").is_some();
        if notification.get(notify::RELEASED).is_some() {
            self.released.cancel();
        }
        if let Some(status) = notification.get("STATUS") {
            status.clone_into(&mut self.status);
        }
        if let Some(connections) = notification.get(notify::CONNECTIONS) {
            self.connections = connections.parse().unwrap_or_default();
        }
    }

    /// Asks the process to accept no more, and to end with its last connection, without a time
    /// limit.
    pub(super) fn request_drain(&mut self) {
        // A failed write means that the process has ended.
        let _ = self.parent_death_pipe.write_all(&[0]);
    }

    /// Sends a signal to the process.
    pub(super) fn signal(&self, signal: Signal) {
        // Only the task in `spawn` waits for the process, so its pid is not reused, or its exit
        // event is already on the way.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Returns why a process has ended, and the exit code to report. The last status of a process that
/// was never ready is the reason.
pub(super) fn exit_reason(process: Process, status: &io::Result<ExitStatus>) -> (String, u8) {
    let (described, code) = describe(status);
    let has_reported = process.serving.is_none() && !process.status.is_empty();
    (if has_reported { process.status } else { described }, code)
}

fn describe(status: &io::Result<ExitStatus>) -> (String, u8) {
    match status {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // EX_SOFTWARE of sysexits(3) if a signal ended the process.
            (format!("the process ended: {status}"), code.unwrap_or(70))
        }
        Err(e) => (format!("cannot wait for the process: {e}"), 71),
    }
}
