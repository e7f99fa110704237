//! One instance of a supervisor: a line of the file with its listeners, its files and its
//! processes.
//!
//! Invariants:
//! - An instance has at most one running process and one successor that is not ready yet.
//! - The published control socket leads to a running process.
//! - Listeners and files outlive the processes. The supervisor releases them together when the
//!   instance is to have no process.

use std::{os::unix::net::UnixListener, time::Instant};

use nix::unistd::{Gid, Uid};
use socket2::Socket;
use tracing::error;

use super::{
    backoff::Backoff,
    conf::{InstanceName, Line},
    process::Process,
};
use crate::{
    control::{
        instance_files::{InstanceFiles, InstanceFilesError},
        protocol::{InstanceRow, InstanceState},
        run_dir::{Paths, RunDir, RunDirError},
    },
    io::inherited::InheritedListeners,
};

/// Why an instance has no process.
#[derive(Debug)]
pub(super) enum Inactive {
    /// The instance failed; time of the next try.
    RetryAt(Instant),
    /// An operator stopped the instance.
    Stopped,
}

/// A new process that replaces the current one as soon as it is ready.
pub(super) struct Successor {
    /// The line whose arguments the process has.
    pub(super) line: Line,
    pub(super) process: Process,
    /// The new files of the instance; `None` if the instance keeps its files.
    pub(super) names: Option<InstanceFiles>,
}

/// A line of the file with its state.
pub(super) struct ManagedInstance {
    pub(super) line: Line,
    /// The bound listeners; empty if the instance has none now.
    pub(super) listeners: Vec<Socket>,
    /// The listeners came from the service manager and must be given back instead of closed.
    pub(super) is_inherited: bool,
    /// The files in the run directory; `None` while the instance is to have no process.
    pub(super) names: Option<InstanceFiles>,
    pub(super) process: Option<Process>,
    pub(super) successor: Option<Successor>,
    pub(super) inactive: Option<Inactive>,
    /// The reason for [`Self::inactive`].
    pub(super) why: String,
    /// The exit code that belongs to the reason.
    pub(super) code: u8,
    pub(super) backoff: Backoff,
}

impl ManagedInstance {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            listeners: Vec::new(),
            is_inherited: false,
            names: None,
            process: None,
            successor: None,
            inactive: None,
            why: String::new(),
            code: 0,
            backoff: Backoff::default(),
        }
    }

    pub(super) fn name(&self) -> &InstanceName {
        &self.line.name
    }

    pub(super) fn state(&self) -> InstanceState {
        match (&self.process, &self.inactive) {
            (Some(process), _) if process.is_draining => InstanceState::Draining,
            (Some(process), Some(Inactive::Stopped)) if process.serving.is_some() => {
                InstanceState::Draining
            }
            (Some(process), _) if process.serving.is_some() => InstanceState::Running,
            (Some(_), _) | (None, None) => InstanceState::Starting,
            (None, Some(_)) if self.successor.is_some() => InstanceState::Starting,
            (None, Some(Inactive::RetryAt(_))) => InstanceState::Failed,
            (None, Some(Inactive::Stopped)) => InstanceState::Stopped,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        self.state() == InstanceState::Starting
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state() == InstanceState::Failed
    }

    /// The processes that have not ended.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.process.iter().chain(self.successor.iter().map(|next| &next.process))
    }

    /// Time of the next try, if the instance has failed.
    pub(super) fn next_try(&self) -> Option<Instant> {
        match self.inactive {
            Some(Inactive::RetryAt(until)) if self.successor.is_none() => Some(until),
            _ => None,
        }
    }

    /// Makes a control socket for a new process of `line`. Also returns the files that the line
    /// needs, unless the instance has them already.
    pub(super) fn control_socket(
        &self,
        dir: &RunDir,
        line: &Line,
        owner: Option<(Uid, Gid)>,
    ) -> Result<(UnixListener, Option<InstanceFiles>), InstanceFilesError> {
        let dir = dir_of(line, dir)?;
        let paths = dir.instance(line.name.bind.as_deref(), line.name.port)?;
        if let Some(names) = self.names.as_ref().filter(|names| names.are_at(&paths)) {
            return Ok((names.socket(owner)?, None));
        }
        let names = InstanceFiles::claim(&dir, paths)?;
        Ok((names.socket(owner)?, Some(names)))
    }

    /// Publishes the control socket and the pid of the running process.
    pub(super) fn publish(&self) {
        let (Some(process), Some(names)) = (&self.process, &self.names) else { return };
        if let Err(error) = names.publish(process.pid) {
            error!(instance = %self.line.name, %error, "cannot publish the control socket");
        }
    }

    /// Closes the listeners, or gives them back if they are inherited.
    pub(super) fn release_listeners(&mut self, inherited_listeners: &mut InheritedListeners) {
        if self.is_inherited {
            inherited_listeners.give_back(&mut self.listeners);
        }
        self.listeners.clear();
        self.is_inherited = false;
    }

    /// Releases the listeners if an operator has asked the process to drain and there is no
    /// successor. Otherwise clients would wait in a backlog that no process accepts from.
    pub(super) fn release_if_draining(&mut self, inherited_listeners: &mut InheritedListeners) {
        let Some(process) = self.process.as_ref().filter(|process| process.is_draining) else {
            return;
        };
        if self.successor.is_some() {
            return;
        }
        let is_released = process.released.is_cancelled();
        self.release_listeners(inherited_listeners);
        if is_released {
            self.names = None;
        }
    }

    /// Releases the listeners and the files.
    pub(super) fn release(&mut self, inherited_listeners: &mut InheritedListeners) {
        self.release_listeners(inherited_listeners);
        self.names = None;
    }

    /// Releases the listeners and the files unless there is a successor.
    pub(super) fn release_unless_replaced(&mut self, inherited_listeners: &mut InheritedListeners) {
        if self.successor.is_none() {
            self.release(inherited_listeners);
        }
    }

    /// Paths of the files of the instance.
    pub(super) fn paths(&self, dir: &RunDir) -> Result<Paths, RunDirError> {
        dir_of(&self.line, dir)?.instance(self.line.name.bind.as_deref(), self.line.name.port)
    }

    pub(super) fn row(&self, dir: &RunDir) -> InstanceRow {
        let process = self.process.as_ref();
        InstanceRow {
            name: self.line.name.to_string(),
            state: self.state(),
            pid: process.map(|process| process.pid),
            socket: self.paths(dir).ok().map(|paths| paths.socket),
            connections: process.map_or(0, |process| process.connections),
            status: process.map_or(&self.why, |process| &process.status).clone(),
        }
    }
}

/// The run directory of a line: its own `--run-dir`, or the directory of the supervisor.
fn dir_of(line: &Line, dir: &RunDir) -> Result<RunDir, RunDirError> {
    let own = line.args.run_dir.as_deref();
    own.map_or_else(|| Ok(dir.clone()), |path| RunDir::locate(Some(path)))
}
