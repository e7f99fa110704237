//! The process of one instance.
//!
//! Invariants: it is a child of the supervisor, which alone is told of its end; it has the supervisor's
//! listeners, its control socket and the read end of its parent death pipe, and no other descriptor, and drains
//! and ends when the supervisor is gone.

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

/// What all processes are given.
#[derive(Debug)]
pub(super) struct SpawnContext {
    /// Where they say how they are.
    pub(super) notify_socket: PathBuf,
    /// Where their ends are told.
    pub(super) events: UnboundedSender<Event>,
}

/// A process that has not ended yet, as far as is known.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Since when it serves.
    pub(super) serving: Option<Instant>,
    /// It accepts no more, as it says.
    pub(super) is_draining: bool,
    /// What it said last of how it is, or why it ends.
    pub(super) status: String,
    /// Connections that it has, as it said last.
    pub(super) connections: u64,
    /// Cancelled when it accepts no more and has let go of its listeners, or has ended.
    pub(super) released: CancellationToken,
    /// A byte tells it to leave. Closed when it has ended, or with the supervisor's process, however that goes: then
    /// it leaves within its grace time.
    parent_death_pipe: PipeWriter,
}

impl Process {
    /// Starts one for a line. Its end comes as an [`Event`].
    pub(super) fn spawn(
        line: &Line,
        listeners: &[Socket],
        control: UnixListener,
        config: &SpawnConfig,
        spawn_context: &SpawnContext,
    ) -> io::Result<Self> {
        let fds = listeners.iter().map(|listener| Ok(listener.try_clone()?.into()));
        let (parent_death_pipe, hand) = io::pipe()?;
        let fds = fds.chain([Ok(parent_death_pipe.into()), Ok(control.into())]);
        let fds = fds.collect::<io::Result<Vec<OwnedFd>>>()?;
        let fds = (inherited::FIRST_FD..).zip(fds);
        let fds = fds.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        // Also when the file has been replaced meanwhile, by an upgrade.
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
            // The supervisor may be on its way out.
            let _ = events.send(Event::Exited(pid, status));
        });
        Ok(Self {
            pid,
            serving: None,
            is_draining: false,
            status: String::new(),
            connections: 0,
            released: CancellationToken::new(),
            parent_death_pipe: hand,
        })
    }

    /// Takes in what it says of itself.
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

    /// Tells it to accept no more, and to end when its connections have, however long that takes.
    pub(super) fn request_drain(&mut self) {
        // One that has ended meanwhile has left.
        let _ = self.parent_death_pipe.write_all(&[0]);
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // It is not waited for anywhere but in the task above, so the number is still its own, or the
        // event of its end is about to come.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Why a process has ended, as it said last if it never served, and the code to go on with.
pub(super) fn exit_reason(process: Process, status: &io::Result<ExitStatus>) -> (String, u8) {
    let (described, code) = describe(status);
    let has_said = process.serving.is_none() && !process.status.is_empty();
    (if has_said { process.status } else { described }, code)
}

fn describe(status: &io::Result<ExitStatus>) -> (String, u8) {
    match status {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // EX_SOFTWARE of sysexits(3) for a death by signal.
            (format!("it ended with {status}"), code.unwrap_or(70))
        }
        Err(e) => (format!("it cannot be waited for: {e}"), 71),
    }
}
