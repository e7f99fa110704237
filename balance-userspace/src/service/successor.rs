//! A new server process that replaces the running one.
//!
//! 1. The new process starts and gets all instances. The old process continues to serve.
//! 2. The new process has replied for each instance. It becomes the current process.
//! 3. The supervisor asks the old process to drain. The old process closes its listeners and ends
//!    with its last connection.
//!
//! Invariant: a new process that ends before step 2, or cannot serve an instance that the old one
//! serves, changes nothing.

use std::{collections::HashMap, time::Instant};

use nix::sys::signal::Signal;
use tracing::{error, info};

use super::{
    changes::Successor,
    conf::Line,
    generation::Generation,
    member::State,
    supervisor::{Supervisor, config},
};
use crate::{
    error::StartError,
    process::protocol::{self, Request},
};

impl Supervisor {
    /// Starts a new process that is to serve these lines. Each has its instance.
    ///
    /// # Errors
    /// When the process cannot be started, or when a line cannot get its listeners or files.
    pub(super) async fn start_successor(&mut self, lines: Vec<Line>) -> Result<(), StartError> {
        let config = config(lines.iter(), &self.settings);
        let mut prepared = Vec::new();
        for line in lines {
            let position = self.instances.iter().position(|it| it.line.name == line.name);
            let Some(i) = position else { continue };
            if self.instances[i].listeners.is_empty() {
                // The instance starts in the new process, once that is the current one.
                self.instances[i].line = line;
                self.instances[i].state = State::Starting;
                continue;
            }
            let serves = matches!(self.instances[i].state, State::Serving);
            match self.claim(i, &line).await {
                Ok(()) => prepared.push((i, line)),
                Err(error) if serves => return Err(error),
                Err(error) => {
                    self.instances[i].line = line;
                    self.failed(i, &error.to_string(), error.exit_code());
                }
            }
        }
        let process = Generation::spawn(config, self.takeover(), &self.sender())
            .map_err(|source| StartError::System { act: "start a process", source })?;
        info!(pid = process.pid, "new server process started");
        let mut next = Successor { process, lines: HashMap::new(), failed: HashMap::new() };
        for (i, line) in prepared {
            let id = self.next_id();
            let served = self.instances[i].serve(&mut next.process, id, &line);
            served.map_err(|source| StartError::System { act: "pass listeners on", source })?;
            next.lines.insert(id, line);
        }
        self.next = Some(next);
        Ok(())
    }

    pub(super) fn on_event_of_next(&mut self, event: &protocol::Event) {
        let Some(next) = &mut self.next else { return };
        if let protocol::Event::Failed { id, reason, exit_code } = event
            && let Some(line) = next.lines.get(id)
        {
            let serves = |state: &State| matches!(state, State::Serving);
            let name = &line.name;
            let why = format!("{}: {reason}", line.position);
            let is_served = self.instances.iter().any(|it| it.name() == name && serves(&it.state));
            if is_served {
                let code = *exit_code;
                return self.next_failed(&why, code);
            }
            next.failed.insert(name.clone(), (why, *exit_code));
        }
        if next.process.awaited.is_empty() {
            self.make_current();
        }
    }

    /// Gives up the new process.
    pub(super) fn next_failed(&mut self, why: &str, code: u8) {
        error!(
            reason = why,
            exit_code = code,
            "server process not replaced, the old process continues to serve"
        );
        if let Some(mut next) = self.next.take() {
            next.process.signal(Signal::SIGKILL);
            next.process.draining_since = Some(Instant::now());
            self.draining.push(next.process);
        }
        self.successor_refused(why, code);
    }

    /// Makes the new process the current one, and drains the old process.
    fn make_current(&mut self) {
        let Some(Successor { process, lines, mut failed }) = self.next.take() else { return };
        info!(pid = process.pid, "server process replaced");
        self.respawn = None;
        let pid = process.pid;
        let old = self.current.replace(process);
        for (id, line) in lines {
            let failure = failed.remove(&line.name);
            let Some(i) = self.instances.iter().position(|it| *it.name() == line.name) else {
                continue;
            };
            let instance = &mut self.instances[i];
            (instance.id, instance.line) = (id, line);
            match failure {
                Some((why, code)) => self.failed(i, &why, code),
                // A command has stopped the instance meanwhile.
                None if instance.listeners.is_empty() || instance.control.is_none() => {
                    if let Some(process) = &self.current {
                        process.send(Request::Remove { id }, Vec::new());
                    }
                    instance.state = State::Stopped;
                }
                None if !self.current.as_ref().is_some_and(|it| it.accepting.contains(&id)) => {
                    instance.release(&mut self.inherited_listeners);
                    instance.state = State::Stopped;
                }
                None => {
                    instance.state = State::Serving;
                    instance.publish(pid);
                }
            }
        }
        if let Some(mut old) = old {
            old.drain();
            self.draining.push(old);
        }
        // After a takeover there can be further processes that accept.
        self.draining
            .iter_mut()
            .filter(|it| it.draining_since.is_none())
            .for_each(Generation::drain);
        for i in 0..self.instances.len() {
            if self.instances[i].is_starting() && self.instances[i].listeners.is_empty() {
                self.start(i);
            }
        }
        self.successor_served();
    }
}
