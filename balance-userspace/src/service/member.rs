//! One instance of a supervisor: a line of the file with its listeners, its names and its processes.
//!
//! Invariants: the instance has at most one process that serves and one that is yet to serve; clients of the control
//! socket find a process that serves. Listeners and names outlive the processes, and are given up together when the
//! instance is to have none.

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

/// Whether, and why, an instance has no process.
#[derive(Debug)]
pub(super) enum Inactive {
    /// It failed, and will be tried again.
    RetryAt(Instant),
    /// An operator ended it, in an orderly way.
    Stopped,
}

/// The process that is to take the place of another when it serves.
pub(super) struct Successor {
    /// What it was started for.
    pub(super) line: Line,
    pub(super) process: Process,
    /// The names that the instance has from then on; nothing if it keeps its own.
    pub(super) names: Option<InstanceFiles>,
}

/// A line of the file that runs, or should.
pub(super) struct ManagedInstance {
    pub(super) line: Line,
    /// Empty if it has none at the moment.
    pub(super) listeners: Vec<Socket>,
    /// They are the service manager's, and cannot be had again.
    pub(super) is_inherited: bool,
    /// Where it is found; nothing if it has no process and is to have none.
    pub(super) names: Option<InstanceFiles>,
    pub(super) process: Option<Process>,
    pub(super) successor: Option<Successor>,
    pub(super) inactive: Option<Inactive>,
    /// Why it rests.
    pub(super) why: String,
    /// The exit code that goes with it.
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

    /// All that have not ended.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.process.iter().chain(self.successor.iter().map(|next| &next.process))
    }

    /// When it is to be tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        match self.inactive {
            Some(Inactive::RetryAt(until)) if self.successor.is_none() => Some(until),
            _ => None,
        }
    }

    /// A control socket for a process that is to be started for a line, and the names that the line asks for, unless
    /// the instance has them already.
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

    /// Lets clients of the control socket find the process, which serves.
    pub(super) fn publish(&self) {
        let (Some(process), Some(names)) = (&self.process, &self.names) else { return };
        if let Err(error) = names.publish(process.pid) {
            error!(instance = %self.line.name, %error, "the control socket cannot be found");
        }
    }

    /// Closes its listeners, or gives them back to where they came from.
    pub(super) fn release_listeners(&mut self, inherited_listeners: &mut InheritedListeners) {
        if self.is_inherited {
            inherited_listeners.give_back(&mut self.listeners);
        }
        self.listeners.clear();
        self.is_inherited = false;
    }

    /// If its process drains, and no other is to take its place: an operator has asked for that, and clients are not
    /// to wait for a process that never accepts.
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

    /// The same, and its names.
    pub(super) fn release(&mut self, inherited_listeners: &mut InheritedListeners) {
        self.release_listeners(inherited_listeners);
        self.names = None;
    }

    /// The same, unless there is a process that is to have them.
    pub(super) fn release_unless_replaced(&mut self, inherited_listeners: &mut InheritedListeners) {
        if self.successor.is_none() {
            self.release(inherited_listeners);
        }
    }

    /// Where it is found.
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

/// The run directory of a line: its own, or that of all.
fn dir_of(line: &Line, dir: &RunDir) -> Result<RunDir, RunDirError> {
    let own = line.args.run_dir.as_deref();
    own.map_or_else(|| Ok(dir.clone()), |path| RunDir::locate(Some(path)))
}
