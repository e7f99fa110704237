//! The process of one instance.
//!
//! Invariants: it is a child of the supervisor, which alone is told of its end; it has the supervisor's
//! listeners and the end of the leash, and no other descriptor, and drains and ends when the
//! supervisor is gone.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::OwnedFd,
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

use super::{
    conf::Line,
    inbox::Said,
    orders::{Orders, VARIABLE},
    supervisor::Event,
};
use crate::{handed, notify};

/// Tells processes that the supervisor is gone, however it went: a pipe into which nobody writes.
#[derive(Debug)]
pub(super) struct Leash {
    held: PipeReader,
    /// Closed with the supervisor's process, and by nothing else.
    _hand: PipeWriter,
}

impl Leash {
    pub(super) fn new() -> io::Result<Self> {
        let (held, hand) = io::pipe()?;
        Ok(Self { held, _hand: hand })
    }
}

/// What all processes are given.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Where they say how they are.
    pub(super) inbox: PathBuf,
    pub(super) leash: Leash,
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
}

impl Process {
    /// Starts one for a line. Its end comes as an [`Event`].
    pub(super) fn spawn(
        line: &Line,
        listeners: &[Socket],
        orders: &Orders,
        surroundings: &Surroundings,
    ) -> io::Result<Self> {
        let fds = listeners.iter().map(|listener| Ok(listener.try_clone()?.into()));
        let fds = fds.chain([surroundings.leash.held.try_clone().map(OwnedFd::from)]);
        let fds = fds.collect::<io::Result<Vec<OwnedFd>>>()?;
        let fds = (handed::FIRST..).zip(fds);
        let fds = fds.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        // Also when the file has been replaced meanwhile, by an upgrade.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("balance")
            .args(&line.words)
            .env(VARIABLE, orders.text())
            .env("NOTIFY_SOCKET", &surroundings.inbox)
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null());
        if orders.background {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.fd_mappings(fds).map_err(io::Error::other)?;
        let mut child = command.spawn()?;
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let events = surroundings.events.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            // The supervisor may be on its way out.
            let _ = events.send(Event::Ended(pid, status));
        });
        Ok(Self { pid, serving: None, is_draining: false, status: String::new(), connections: 0 })
    }

    /// Takes in what it says of itself.
    pub(super) fn hear(&mut self, said: &Said) {
        if said.get("READY").is_some() && self.serving.is_none() {
            self.serving = Some(Instant::now());
        }
        self.is_draining |= said.get("STOPPING").is_some();
        if let Some(status) = said.get("STATUS") {
            status.clone_into(&mut self.status);
        }
        if let Some(connections) = said.get(notify::CONNECTIONS) {
            self.connections = connections.parse().unwrap_or_default();
        }
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

/// Why a process has ended that said nothing of it, and the code to go on with.
pub(super) fn describe(status: &io::Result<ExitStatus>) -> (String, u8) {
    match status {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // EX_SOFTWARE of sysexits(3) for a death by signal.
            (format!("it ended with {status}"), code.unwrap_or(70))
        }
        Err(e) => (format!("it cannot be waited for: {e}"), 71),
    }
}
