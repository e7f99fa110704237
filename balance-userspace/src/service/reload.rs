//! A reload: the running instances follow the changed file.
//!
//! Order:
//!
//! 1. Read the file. A mistake changes nothing.
//! 2. Stop accepting for the instances of removed lines, and send new arguments to instances that
//!    can take them.
//! 3. When the removed instances have closed their listeners, start the other lines. An instance
//!    that cannot take its new arguments accepts with the old ones until it accepts with the new
//!    ones.
//!
//! A change of an option that belongs to the process needs a new process
//! ([`successor`](super::successor)).
//!
//! Invariants:
//! - A change that fails leaves its instance as it was.
//! - A reload ends when each of its changes is complete or has failed.

use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    changes::Reload,
    check,
    conf::{Line, Mistake, ProcessSettings},
    control_socket::control_group,
    generation::{DRAIN_TIMEOUT, Generation},
    member::{ManagedInstance, State},
    plan::{Plan, Step, plan},
    supervisor::{PASS_ON, Supervisor, cannot_pass_on, config},
};
use crate::{
    cli::args::Args,
    control::protocol::SupervisorReply,
    notify,
    process::protocol::{Configured, Request},
    selection::Differences,
};

/// Exit code for a name that does not resolve: EX_DATAERR of sysexits(3).
const UNRESOLVED: u8 = 65;

/// Exit code of changes that a crash of the server process has lost: EX_TEMPFAIL of sysexits(3).
const LOST: u8 = 75;

impl Supervisor {
    /// Begins a reload, or queues it behind the current one.
    pub(super) fn begin_reload(&mut self, reply: oneshot::Sender<SupervisorReply>) {
        if self.reload.is_some() || self.upgrade.is_some() {
            self.queued_reloads.push_back(reply);
            return;
        }
        if self.stopping.is_none() && self.is_outdated() {
            return self.begin_upgrade(reply);
        }
        self.read_again(Reload { reply: Some(reply), ..Reload::default() });
    }

    /// Replaces the processes of another supervisor.
    pub(super) fn begin_takeover(&mut self) {
        self.read_again(Reload { is_takeover: true, ..Reload::default() });
    }

    fn read_again(&mut self, reload: Reload) {
        notify::reloading();
        self.reload = Some(reload);
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        let file = self.settings.file.clone();
        let (lines, group) = match check::read(&file) {
            Ok(conf) if conf.mistakes.is_empty() => {
                let group = control_group(&conf);
                (conf.lines, group)
            }
            Ok(conf) => return self.end_reload(SupervisorReply::InvalidFile(conf.wrong())),
            Err(error) => {
                return self.end_reload(SupervisorReply::InvalidFile(vec![error.to_string()]));
            }
        };
        let plan = plan(self.instances.iter().map(|instance| &instance.line), lines.clone());
        let changed = plan.steps.iter().filter(|(_, step)| *step != Step::Keep);
        let changed: Vec<Line> = changed.map(|(line, _)| line.clone()).collect();
        let wrong = check::lines(&changed, false);
        if !wrong.is_empty() {
            let wrong = wrong.iter().map(Mistake::to_string).collect();
            return self.end_reload(SupervisorReply::InvalidFile(wrong));
        }
        self.wrong.clear();
        let control = self.change_control_group(group);
        if let Some(reload) = &mut self.reload {
            match control {
                Ok(true) if !reload.is_takeover => {
                    reload.changed.push("control socket: replaced".to_owned());
                }
                Ok(_) => {}
                Err(error) => reload.failed.push((error.to_string(), error.exit_code())),
            }
            reload.differences.ask(self.current.as_ref(), &self.instances);
        }
        self.apply(plan);
    }

    /// Removes instances, sends new arguments, and notes which lines to start.
    fn apply(&mut self, plan: Plan) {
        let Some(mut reload) = self.reload.take() else { return };
        for name in &plan.remove {
            let Some(i) = self.instances.iter().position(|it| it.name() == name) else { continue };
            let mut instance = self.instances.remove(i);
            let label = instance.label();
            instance.release(&mut self.inherited_listeners);
            if let Some(process) = &self.current
                && matches!(instance.state, State::Serving | State::Starting)
            {
                process.send(Request::Remove { id: instance.id }, Vec::new());
                if process.knows(instance.id) {
                    reload.removing.insert(instance.id, Instant::now());
                }
            }
            reload.changed.push(format!("{label}: stopped"));
        }
        let order: Vec<_> = plan.steps.iter().map(|(line, _)| line.name.clone()).collect();
        let is_other_process = |line: &Line| {
            let first = self.current.as_ref().and_then(|process| process.config.args().ok());
            first.is_some_and(|args| process_options(&args) != process_options(&line.args))
        };
        let wanted =
            config(plan.steps.iter().map(|(line, _)| line), &self.settings).max_connections;
        let limit = self.current.as_ref().and_then(|process| process.config.max_connections);
        let is_too_small = limit.is_some_and(|limit| wanted.is_none_or(|wanted| wanted > limit));
        let is_other = plan.steps.first().is_some_and(|(line, _)| is_other_process(line));
        let is_needed = is_other || is_too_small || reload.is_takeover;
        reload.has_successor = !plan.steps.is_empty() && is_needed;
        for (line, step) in plan.steps {
            let instance = self.instances.iter_mut().find(|it| *it.name() == line.name);
            match (step, instance) {
                // An upgrade does not start what an operator has stopped.
                (Step::Keep, Some(instance))
                    if reload.is_takeover && matches!(instance.state, State::Stopped) =>
                {
                    instance.line.position = line.position.clone();
                }
                (Step::Keep, Some(instance)) if !instance.is_idle() && !reload.has_successor => {
                    instance.line.position = line.position.clone();
                }
                (Step::Configure, Some(instance))
                    if matches!(instance.state, State::Serving) && !reload.has_successor =>
                {
                    let Some(process) = &self.current else {
                        // The next process gets the new line.
                        reload.changed.push(format!("{}: changed", line.label()));
                        instance.line = line;
                        continue;
                    };
                    let id = instance.id;
                    let request = Request::Configure { id, line: (&line).into() };
                    process.send(request, Vec::new());
                    reload.configuring.insert(id, line);
                }
                _ => reload.starting.push(line),
            }
        }
        reload.has_successor &= !reload.starting.is_empty();
        let position =
            |instance: &ManagedInstance| order.iter().position(|name| name == instance.name());
        self.instances.sort_by_key(position);
        self.reload = Some(reload);
    }

    /// Starts the lines that waited for the end of removed instances.
    pub(super) async fn continue_reload(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        if !reload.removing.is_empty() || reload.starting.is_empty() || self.stopping.is_some() {
            return;
        }
        let starting = std::mem::take(&mut reload.starting);
        if reload.has_successor {
            return self.replace_process(starting).await;
        }
        for line in starting {
            let name = line.name.clone();
            let position = self.instances.iter().position(|it| *it.name() == name);
            let what = match position {
                Some(i) if matches!(self.instances[i].state, State::Serving) => {
                    self.replace(i, line).await;
                    continue;
                }
                Some(i) => {
                    let instance = &mut self.instances[i];
                    if instance.is_starting()
                        && let Some(process) = &self.current
                    {
                        process.send(Request::Remove { id: instance.id }, Vec::new());
                    }
                    (instance.line, instance.backoff) = (line, Backoff::default());
                    self.start(i);
                    "started"
                }
                None => {
                    let id = self.next_id();
                    self.instances.push(ManagedInstance::new(line, id));
                    self.start(self.instances.len() - 1);
                    "started"
                }
            };
            if let Some(reload) = &mut self.reload {
                reload.started.push((name, what));
            }
        }
    }

    /// Serves an instance with arguments that it cannot take while it runs.
    async fn replace(&mut self, i: usize, line: Line) {
        let prepared = self.claim(i, &line).await;
        let id = self.next_id();
        let Some(reload) = &mut self.reload else { return };
        match (prepared, &mut self.current) {
            (Ok(()), Some(process)) => match self.instances[i].serve(process, id, &line) {
                Ok(()) => drop(reload.replacing.insert(id, line)),
                Err(error) => {
                    let why = format!("{}: {}", line.position, cannot_pass_on(&error));
                    reload.failed.push((why, PASS_ON));
                    self.instances[i].discard_next_control();
                }
            },
            (Ok(()), None) => self.instances[i].line = line,
            (Err(error), _) => {
                let why = format!("{}: {error}", line.position);
                reload.failed.push((why, error.exit_code()));
            }
        }
    }

    /// Starts a new process with other options.
    async fn replace_process(&mut self, lines: Vec<Line>) {
        for line in &lines {
            if !self.instances.iter().any(|it| *it.name() == line.name) {
                let id = self.next_id();
                self.instances.push(ManagedInstance::new(line.clone(), id));
            }
        }
        let names: Vec<_> = lines.iter().map(|line| (line.name.clone(), "replaced")).collect();
        match self.start_successor(lines).await {
            Ok(()) => {
                if let Some(reload) = &mut self.reload {
                    reload.started = names;
                }
            }
            Err(error) => self.successor_refused(&error.to_string(), error.exit_code()),
        }
    }

    /// An instance serves with its new arguments. Returns whether it was replaced.
    pub(super) fn replacement_served(&mut self, id: u64) -> bool {
        let Some(reload) = &mut self.reload else { return false };
        let Some(line) = reload.replacing.remove(&id) else { return false };
        let (Some(process), Some(instance)) =
            (&self.current, self.instances.iter_mut().find(|it| *it.name() == line.name))
        else {
            return true;
        };
        if !matches!(instance.state, State::Serving) {
            process.send(Request::Remove { id }, Vec::new());
            reload.failed.push((format!("{}: stopped during the reload", line.label()), LOST));
            return true;
        }
        process.send(Request::Remove { id: instance.id }, Vec::new());
        if process.knows(instance.id) {
            reload.removing.insert(instance.id, Instant::now());
        }
        reload.changed.push(format!("{}: replaced", line.label()));
        (instance.id, instance.line) = (id, line);
        instance.publish(process.pid);
        true
    }

    /// An instance cannot serve with its new arguments. Returns whether it was to be replaced.
    pub(super) fn replacement_failed(&mut self, id: u64, reason: &str, code: u8) -> bool {
        let Some(reload) = &mut self.reload else { return false };
        let Some(line) = reload.replacing.remove(&id) else { return false };
        if let Some(instance) = self.instances.iter_mut().find(|it| *it.name() == line.name) {
            instance.discard_next_control();
        }
        let why = format!("{}: {reason}; the instance keeps its old arguments", line.position);
        error!(instance = %line.name, reason = why, "instance not replaced");
        reload.failed.push((why, code));
        true
    }

    /// An instance has replied to its new arguments.
    pub(super) fn configured(&mut self, id: u64, outcome: Configured) {
        let Some(reload) = &mut self.reload else { return };
        let Some(line) = reload.configuring.remove(&id) else { return };
        match outcome {
            Configured::Done => {
                reload.changed.push(format!("{}: changed", line.label()));
                if let Some(instance) = self.instances.iter_mut().find(|it| it.id == id) {
                    instance.line = line;
                }
            }
            Configured::Unresolved(why) => {
                reload.failed.push((format!("{}: {why}", line.position), UNRESOLVED));
            }
            Configured::Incompatible => reload.starting.push(line),
        }
    }

    /// A removed instance no longer accepts.
    pub(super) fn removed(&mut self, id: u64) {
        if let Some(reload) = &mut self.reload {
            reload.removing.remove(&id);
            if let Some(line) = reload.configuring.remove(&id) {
                reload.failed.push((format!("{}: stopped during the reload", line.label()), LOST));
            }
        }
    }

    /// The new process serves all its instances.
    pub(super) fn successor_served(&mut self) {
        if let Some(reload) = &mut self.reload {
            reload.has_successor = false;
        }
    }

    /// The new process was given up.
    pub(super) fn successor_refused(&mut self, why: &str, code: u8) {
        if let Some(reload) = &mut self.reload {
            reload.has_successor = false;
            reload.started.clear();
            reload.failed.push((format!("{why}; the old process continues to serve"), code));
        }
        for i in 0..self.instances.len() {
            let instance = &mut self.instances[i];
            instance.discard_next_control();
            let id = instance.id;
            if !instance.is_starting() || self.current.as_ref().is_some_and(|it| it.knows(id)) {
                continue;
            }
            // The instance has had no part in the failure.
            match self.current {
                Some(_) => self.start(i),
                None => self.failed(i, why, code),
            }
        }
    }

    /// The server process has ended in the middle of a reload. Its successor gets the lines as they
    /// were.
    pub(super) fn reload_lost(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        reload.removing.clear();
        let lost = reload.configuring.drain().chain(reload.replacing.drain());
        reload.failed.extend(lost.map(|(_, line)| {
            (format!("{}: the server process ended during the reload", line.label()), LOST)
        }));
    }

    /// A process has compared its instances with their lines.
    pub(super) fn differences_found(&mut self, pid: u32, instances: Vec<(u64, Differences)>) {
        if let Some(reload) = &mut self.reload {
            reload.differences.found(pid, instances);
        }
    }

    /// Asks for the differences after all changes. Returns whether they are known.
    fn differences_are_known(&mut self) -> bool {
        let Some(mut reload) = self.reload.take() else { return true };
        let pids: Vec<_> = self.processes().map(|process| process.pid).collect();
        let known = reload.differences.advance(self.current.as_ref(), &pids, &self.instances);
        self.reload = Some(reload);
        known
    }

    /// Ends the reload when each change is complete or has failed.
    pub(super) async fn finish_reload(&mut self) {
        if self.stopping.is_some() && self.reload.is_some() {
            self.give_up_reload();
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.removing.retain(|_, since| since.elapsed() < DRAIN_TIMEOUT);
        }
        self.continue_reload().await;
        let Some(reload) = &self.reload else { return };
        let is_open = |instance: &ManagedInstance| {
            instance.is_starting() && reload.started.iter().any(|(name, _)| name == instance.name())
        };
        if !reload.removing.is_empty()
            || !reload.configuring.is_empty()
            || !reload.starting.is_empty()
            || !reload.replacing.is_empty()
            || reload.has_successor
            || self.draining.iter().any(Generation::is_releasing)
            || self.instances.iter().any(is_open)
        {
            return;
        }
        if !self.differences_are_known() {
            return;
        }
        let Some(mut reload) = self.reload.take() else { return };
        for (name, what) in reload.started.drain(..) {
            let instance = self.instances.iter().find(|it| *it.name() == name);
            match instance.and_then(ManagedInstance::failure) {
                Some((why, code)) => reload.failed.push((why.to_owned(), code)),
                None => {
                    let label = instance.map_or_else(|| name.to_string(), ManagedInstance::label);
                    reload.changed.push(format!("{label}: {what}"));
                }
            }
        }
        let (changed, code) = (std::mem::take(&mut reload.changed), reload.failed.first());
        let differences = reload.differences.lines(&self.instances);
        let reply = match code.map(|(_, code)| *code) {
            None => SupervisorReply::Reloaded { changed, differences },
            Some(code) => {
                let failed = reload.failed.drain(..).map(|(why, _)| why).collect();
                SupervisorReply::PartlyReloaded { changed, differences, failed, code }
            }
        };
        self.reload = Some(reload);
        self.end_reload(reply);
    }

    fn give_up_reload(&mut self) {
        self.end_reload(SupervisorReply::Refused("balance is stopping".to_owned()));
    }

    fn end_reload(&mut self, reply: SupervisorReply) {
        match &reply {
            SupervisorReply::Reloaded { changed, differences } => {
                let differences = joined(differences);
                info!(changed = changed.join("; "), differences, "reloaded");
            }
            SupervisorReply::PartlyReloaded { changed, differences, failed, .. } => {
                let (changed, differences) = (changed.join("; "), joined(differences));
                warn!(changed, differences, failed = failed.join("; "), "reloaded in part");
            }
            SupervisorReply::InvalidFile(wrong) => {
                warn!(reason = wrong.join("; "), "not reloaded");
            }
            _ => warn!(reason = "balance is stopping", "not reloaded"),
        }
        if self.is_started {
            notify::ready();
        }
        self.last_status.clear();
        let Some(reload) = self.reload.take() else { return };
        let is_takeover = reload.is_takeover;
        // The clients may be gone.
        if reload.is_takeover {
            self.is_taking_over = false;
            self.waiting.drain(..).for_each(|sender| drop(sender.send(reply.clone())));
            self.taken_over = Some(reply);
        } else if let Some(sender) = reload.reply {
            let _ = sender.send(reply);
        }
        if is_takeover && self.current.is_none() && self.next.is_none() {
            // Without a process nothing would serve the lines of the previous program.
            let starting = (0..self.instances.len()).filter(|i| self.instances[*i].is_starting());
            starting.for_each(|i| self.prepare(i));
        }
        self.next_reload();
    }

    /// Begins the next reload that waits.
    pub(super) fn next_reload(&mut self) {
        if let Some(next) = self.queued_reloads.pop_front() {
            self.again(next);
        }
    }
}

/// The lines in one text; none without a line.
fn joined(lines: &[String]) -> Option<String> {
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The settings that only another process can change. The run directory and the control sockets
/// belong to the supervisor.
fn process_options(args: &Args) -> ProcessSettings {
    ProcessSettings { run_dir: None, control_group: None, ..ProcessSettings::of(args) }
}
