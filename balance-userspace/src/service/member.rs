//! One instance of a supervisor: a line of the file with its listeners and its files.
//!
//! Invariants:
//! - Listeners, files and control socket outlive the server processes. The supervisor releases them
//!   together when the instance is to serve no more.
//! - The pid file has the pid of a process that serves the instance.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    time::Instant,
};

use socket2::Socket;
use tracing::error;

use super::{
    backoff::Backoff,
    conf::{InstanceName, Line},
    generation::Generation,
};
use crate::{
    control::{
        instance_files::{InstanceFiles, InstanceFilesError, SocketAccess},
        protocol::{InstanceRow, InstanceState},
        run_dir::{Paths, RunDir, RunDirError},
    },
    io::inherited::{InheritedListeners, STORED},
    notify,
    process::protocol::Request,
};

/// What an instance does.
#[derive(Debug)]
pub(super) enum State {
    /// The server process has not replied yet.
    Starting,
    /// The server process accepts.
    Serving,
    /// The instance cannot serve: why, the exit code that belongs to the reason, and the time of
    /// the next try.
    Failed { why: String, code: u8, retry: Instant },
    /// An operator stopped the instance.
    Stopped,
}

/// The control socket of an instance and its files in the run directory.
pub(super) struct Control {
    pub(super) files: Arc<InstanceFiles>,
    pub(super) listener: UnixListener,
    pub(super) access: SocketAccess,
}

impl Control {
    /// The control socket of an earlier supervisor. Its access is unknown, so a line with a control
    /// group gets another socket.
    pub(super) fn taken_over(files: Arc<InstanceFiles>, listener: UnixListener) -> Self {
        Self { files, listener, access: SocketAccess::default() }
    }
}

/// A line of the file with its state.
pub(super) struct ManagedInstance {
    pub(super) line: Line,
    /// The number of the instance in the messages to server processes.
    pub(super) id: u64,
    pub(super) state: State,
    /// The bound listeners; empty if the instance has none now.
    pub(super) listeners: Vec<Socket>,
    /// The listeners came from the service manager and must be given back instead of closed.
    pub(super) is_inherited: bool,
    pub(super) control: Option<Control>,
    /// The control socket in another run directory or for another group, until the instance
    /// serves there.
    pub(super) next_control: Option<Control>,
    pub(super) backoff: Backoff,
    /// The process that the user started has printed why the instance cannot serve.
    pub(super) has_been_told: bool,
}

impl ManagedInstance {
    pub(super) fn new(line: Line, id: u64) -> Self {
        Self {
            line,
            id,
            state: State::Starting,
            listeners: Vec::new(),
            is_inherited: false,
            control: None,
            next_control: None,
            backoff: Backoff::default(),
            has_been_told: false,
        }
    }

    pub(super) fn name(&self) -> &InstanceName {
        &self.line.name
    }

    /// The name for people: `--name`, or port and address.
    pub(super) fn label(&self) -> String {
        self.line.label()
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting)
    }

    /// Whether the instance neither serves nor starts.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Failed { .. } | State::Stopped)
    }

    /// Why the instance cannot serve, and the exit code.
    pub(super) fn failure(&self) -> Option<(&str, u8)> {
        match &self.state {
            State::Failed { why, code, .. } => Some((why, *code)),
            _ => None,
        }
    }

    /// Time of the next try, if the instance has failed.
    pub(super) fn next_try(&self) -> Option<Instant> {
        match self.state {
            State::Failed { retry, .. } => Some(retry),
            _ => None,
        }
    }

    /// Whether a server process is to serve the instance.
    pub(super) fn is_wanted(&self) -> bool {
        !self.listeners.is_empty() && matches!(self.state, State::Starting | State::Serving)
    }

    /// Asks a server process to serve the instance with the arguments of `line` as number `id`.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn serve(
        &self,
        generation: &mut Generation,
        id: u64,
        line: &Line,
    ) -> io::Result<()> {
        let control = self.next_control.as_ref().or(self.control.as_ref());
        let control = control.ok_or(io::ErrorKind::NotFound)?;
        let listeners = self.listeners.iter().map(Socket::try_clone);
        let fds = listeners.map(|listener| listener.map(OwnedFd::from));
        let fds = fds.chain([control.listener.try_clone().map(OwnedFd::from)]);
        let fds = fds.collect::<io::Result<Vec<_>>>()?;
        generation.awaited.insert(id);
        generation.names.insert(id, line.name.to_string());
        let request = Request::Serve {
            id,
            line: line.into(),
            listeners: self.listeners.len(),
            may_have_clients: true,
        };
        generation.send(request, fds);
        Ok(())
    }

    /// Claims the files of `line`, and creates its control socket, unless the instance has them.
    pub(super) fn claim(
        &mut self,
        dir: &RunDir,
        line: &Line,
        access: SocketAccess,
    ) -> Result<(), InstanceFilesError> {
        let dir = dir_of(line, dir)?;
        let paths = dir.instance(line.name.bind.as_deref(), line.name.port)?;
        let own = self.control.as_ref().filter(|control| control.files.are_at(&paths));
        if own.is_some_and(|control| control.access == access) {
            return Ok(());
        }
        let files = match own {
            Some(control) => Arc::clone(&control.files),
            None => Arc::new(InstanceFiles::claim(&dir, paths)?),
        };
        let listener = files.socket(access)?;
        let control = Some(Control { files, listener, access });
        match self.control {
            // The instance keeps its files until it serves with the new line.
            Some(_) => self.next_control = control,
            None => self.control = control,
        }
        Ok(())
    }

    /// Gives up the control socket for a new line.
    pub(super) fn discard_next_control(&mut self) {
        if let Some(next) = self.next_control.take() {
            next.files.discard();
        }
    }

    /// Claims the files of an instance whose supervisor has ended.
    pub(super) fn reclaim(&self, dir: &RunDir) -> Result<InstanceFiles, InstanceFilesError> {
        InstanceFiles::reclaim(&dir_of(&self.line, dir)?, self.paths(dir)?)
    }

    /// Publishes the control socket and the pid of the process that serves.
    pub(super) fn publish(&mut self, pid: u32) {
        if let Some(next) = self.next_control.take() {
            // The old files are removed after the new ones are published.
            let old = self.control.replace(next);
            self.publish(pid);
            return drop(old);
        }
        let Some(Control { files, .. }) = &self.control else { return };
        if let Err(error) = files.publish(pid) {
            error!(instance = %self.line.name, %error, "cannot publish the control socket");
        }
    }

    /// Closes the listeners, or gives them back if they are inherited, and removes the files.
    pub(super) fn release(&mut self, inherited_listeners: &mut InheritedListeners) {
        if self.is_inherited {
            inherited_listeners.give_back(&mut self.listeners);
        } else if !self.listeners.is_empty() {
            notify::remove_from_store(&self.stored_name());
        }
        self.listeners.clear();
        self.is_inherited = false;
        (self.control, self.next_control) = (None, None);
    }

    /// The name of the listeners in the descriptor store of the service manager, which allows no
    /// colon.
    pub(super) fn stored_name(&self) -> String {
        format!("{STORED}{}", self.line.name).replace(':', "_")
    }

    /// Paths of the files of the instance.
    pub(super) fn paths(&self, dir: &RunDir) -> Result<Paths, RunDirError> {
        dir_of(&self.line, dir)?.instance(self.line.name.bind.as_deref(), self.line.name.port)
    }

    /// The instance as `status` shows it. `generation` is the process that serves it.
    pub(super) fn row(&self, dir: &RunDir, generation: Option<&Generation>) -> InstanceRow {
        let status = generation.and_then(|process| process.status.get(&self.id));
        let is_known = generation.is_some_and(|process| process.names.contains_key(&self.id));
        let is_ending = matches!(self.state, State::Stopped) && is_known;
        let is_served = matches!(self.state, State::Starting | State::Serving) || is_ending;
        let process = generation.filter(|_| is_served);
        let hung = process.filter(|process| process.is_silent());
        let text = match &self.state {
            State::Failed { why, .. } => why.clone(),
            State::Stopped => "stopped on request".to_owned(),
            State::Starting | State::Serving => match hung {
                Some(process) => {
                    let (pid, seconds) = (process.pid, process.silent_seconds());
                    format!("server process {pid} has not replied for {seconds} s")
                }
                None => status.map(|status| status.text.clone()).unwrap_or_default(),
            },
        };
        InstanceRow {
            name: self.line.name.to_string(),
            given_name: self.line.args.name.clone(),
            words: self.line.words.clone(),
            state: match self.state {
                State::Starting => InstanceState::Starting,
                State::Serving if hung.is_some() => InstanceState::Hung,
                State::Serving => InstanceState::Running,
                State::Failed { .. } => InstanceState::Failed,
                State::Stopped if is_ending => InstanceState::Draining,
                State::Stopped => InstanceState::Stopped,
            },
            pid: process.map(|process| process.pid),
            socket: self.paths(dir).ok().map(|paths| paths.socket),
            connections: status.map_or(0, |status| status.open),
            status: text,
        }
    }
}

/// The run directory of a line: its own `--run-dir`, or the directory of the supervisor.
fn dir_of(line: &Line, dir: &RunDir) -> Result<RunDir, RunDirError> {
    let own = line.args.run_dir.as_deref();
    own.map_or_else(|| Ok(dir.clone()), |path| RunDir::locate(Some(path)))
}
