//! A reload: the running instances follow the changed file.
//!
//! Order:
//!
//! - Read the file, and look up every name in it. This changes nothing.
//! - Send new arguments to the processes that can take them. Drain the processes of removed lines,
//!   and wait until they have closed their listeners.
//! - Start processes for the other lines.
//!
//! When a new process replaces an old one, both accept from the same listeners for a while:
//!
//! 1. The new process starts. The old process continues to serve and keeps the published control
//!    socket.
//! 2. The new process reports that it is ready, and becomes the process of the instance.
//! 3. Its control socket atomically replaces the socket of the old process
//!    ([`InstanceFiles::publish`]).
//! 4. The supervisor asks the old process to drain. The old process closes its listeners, reports
//!    it, and ends with its last connection.
//!
//! Invariants:
//! - A new process that ends before step 2 changes nothing.
//! - An old process that is not ready is asked to drain before the new one starts, and is never
//!   published.
//! - The supervisor holds the lock of the instance throughout, so no process waits for another.
//! - A reload ends when each of its new processes is ready or has failed, and each drained process
//!   has closed its listeners.
//!
//! [`InstanceFiles::publish`]: crate::control::instance_files::InstanceFiles::publish

use std::{collections::HashMap, io, process::ExitStatus, time::Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    check,
    conf::{InstanceName, Line},
    event::Event,
    instance_rpc,
    member::{Inactive, ManagedInstance, Successor},
    plan::{Plan, Step, plan},
    process::{Process, exit_reason},
    supervisor::Supervisor,
};
use crate::{
    control::protocol::{InstanceReply, InstanceState, SupervisorReply},
    notify,
};

/// Exit code for a name that does not resolve: EX_DATAERR of sysexits(3).
const UNRESOLVED: u8 = 65;

/// A reload in progress.
pub(super) struct Reload {
    /// Receives the result; `None` if a signal started the reload.
    reply: Option<oneshot::Sender<SupervisorReply>>,
    /// The result for each instance, in order; `None` before the first change.
    steps: Option<Vec<(InstanceName, StepResult)>>,
    /// Replacements that failed before they were ready: reason and exit code of each instance.
    refused: HashMap<InstanceName, (String, u8)>,
}

/// The result of a reload for one instance.
enum StepResult {
    /// The change is complete.
    Changed(&'static str),
    /// The change is complete when the new process is ready.
    Started(&'static str),
    /// The change failed.
    Failed(String),
}

impl Supervisor {
    /// Begins a reload, or queues it behind the current one. Never waits: slow results arrive as
    /// events.
    pub(super) fn begin_reload(&mut self, reply: Option<oneshot::Sender<SupervisorReply>>) {
        if self.reload.is_some() {
            self.queued_reloads.push_back(reply);
            return;
        }
        notify::reloading();
        self.reload = Some(Reload { reply, steps: None, refused: HashMap::new() });
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        let file = self.settings.file.clone();
        let conf = match check::read(&file) {
            Ok(conf) if conf.mistakes.is_empty() => conf,
            Ok(conf) => return self.end_reload(SupervisorReply::InvalidFile(conf.wrong())),
            Err(error) => {
                return self.end_reload(SupervisorReply::InvalidFile(vec![error.to_string()]));
            }
        };
        let plan = self.plan(conf.lines.clone());
        let changed = plan.steps.into_iter().filter(|(_, step)| *step != Step::Keep);
        let changed: Vec<Line> = changed.map(|(line, _)| line).collect();
        let events = self.sender();
        tokio::spawn(async move {
            let wrong = check::all_lines(changed).await;
            let checked = if wrong.is_empty() { Ok(conf.lines) } else { Err(wrong) };
            let _ = events.send(Event::Checked(checked));
        });
    }

    /// Plans the changes for new lines. An instance that does not run always gets a new process.
    fn plan(&self, lines: Vec<Line>) -> Plan {
        let mut plan = plan(self.instances.iter().map(|instance| &instance.line), lines);
        for (line, step) in &mut plan.steps {
            let Some(instance) = self.instances.iter().find(|i| *i.name() == line.name) else {
                continue;
            };
            let is_unchanged_start = *step == Step::Keep && instance.is_starting();
            if instance.state() != InstanceState::Running && !is_unchanged_start {
                *step = Step::Replace;
            }
        }
        plan
    }

    /// Sends new arguments to running processes, and drains the processes of removed lines.
    pub(super) fn configure_processes(&mut self, lines: Vec<Line>) {
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        let plan = self.plan(lines);
        let mut left = Vec::new();
        for name in &plan.remove {
            let Some(i) = self.instances.iter().position(|i| i.name() == name) else { continue };
            let mut instance = self.instances.remove(i);
            instance.release(&mut self.inherited_listeners);
            left.extend(instance.process.map(|process| self.drain(name.clone(), process)));
        }
        let configure = plan.steps.iter().filter(|(_, step)| *step == Step::Configure);
        let requests = configure.filter_map(|(line, _)| {
            let instance = self.instances.iter().find(|i| *i.name() == line.name)?;
            Some((line.name.clone(), instance.paths(&self.settings.dir), line.words.clone()))
        });
        let requests = requests.collect();
        let events = self.sender();
        tokio::spawn(async move {
            let replies = instance_rpc::configure_all(requests).await;
            for process in left {
                process.cancelled().await;
            }
            let _ = events.send(Event::Configured(plan, replies));
        });
    }

    /// Finishes the plan after the replies of the running processes: starts new processes.
    pub(super) async fn start_processes(
        &mut self,
        plan: Plan,
        replies: HashMap<InstanceName, Result<InstanceReply, String>>,
    ) {
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        self.wrong.clear();
        let mut steps: Vec<_> =
            plan.remove.into_iter().map(|name| (name, StepResult::Changed("stopped"))).collect();
        let mut order = Vec::new();
        for (line, step) in plan.steps {
            let name = line.name.clone();
            order.push(name.clone());
            let done = match self.instances.iter().position(|i| *i.name() == name) {
                None => {
                    self.instances.push(ManagedInstance::new(line));
                    self.start(self.instances.len() - 1).await;
                    StepResult::Started("started")
                }
                Some(i) => match self.apply_step(i, line, step, replies.get(&name)).await {
                    Some(done) => done,
                    None => continue,
                },
            };
            steps.push((name, done));
        }
        let position =
            |instance: &ManagedInstance| order.iter().position(|name| name == instance.name());
        self.instances.sort_by_key(position);
        if let Some(reload) = &mut self.reload {
            reload.steps = Some(steps);
        }
    }

    /// Applies one step to an instance; `None` if the step changes nothing.
    async fn apply_step(
        &mut self,
        i: usize,
        line: Line,
        step: Step,
        reply: Option<&Result<InstanceReply, String>>,
    ) -> Option<StepResult> {
        match (step, reply) {
            (Step::Keep, _) => {
                self.instances[i].line.position = line.position.clone();
                None
            }
            (Step::Configure, Some(Ok(InstanceReply::Done | InstanceReply::Already))) => {
                self.instances[i].line = line;
                Some(StepResult::Changed("changed"))
            }
            (Step::Configure, Some(Ok(InstanceReply::InvalidAddress(why)) | Err(why))) => {
                Some(StepResult::Failed(format!("{}: {why}", line.position)))
            }
            // A process that rejects the new arguments is replaced too.
            (Step::Configure | Step::Replace | Step::Start, _) => {
                let did = if self.instances[i].inactive.is_none() { "replaced" } else { "started" };
                self.replace(i, line).await;
                Some(StepResult::Started(did))
            }
        }
    }

    /// Starts a process for a changed line. A process that serves continues until the new one is
    /// ready.
    async fn replace(&mut self, i: usize, line: Line) {
        let serves = |process: &Process| process.serving.is_some() && !process.is_draining;
        if self.instances[i].process.as_ref().is_some_and(serves) {
            match self.spawn(i, &line).await {
                Ok((process, names)) => {
                    info!(instance = %line.name, pid = process.pid, "replacement process started");
                    self.instances[i].successor = Some(Successor { line, process, names });
                }
                Err(why) => self.refuse(i, &line, &why.to_string(), why.exit_code()),
            }
            return;
        }
        let instance = &mut self.instances[i];
        (instance.line, instance.backoff) = (line, Backoff::default());
        if let Some(process) = instance.process.take() {
            // The process is draining, or is not ready and thus not published. The new process
            // replaces its socket.
            let name = instance.name().clone();
            let _ = self.drain(name, process);
        }
        self.start(i).await;
    }

    /// Makes a ready successor the process of its instance, and drains the old process.
    pub(super) fn take_over(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        let Some(Successor { line, process, names }) = instance.successor.take() else { return };
        let name = line.name.clone();
        info!(instance = %name, pid = process.pid, "replacement process took over");
        (instance.line, instance.backoff, instance.inactive) = (line, Backoff::default(), None);
        let old = instance.process.replace(process);
        let before = names.and_then(|names| instance.names.replace(names));
        instance.publish();
        // Remove the old files after the new ones are published, so clients always find a process.
        drop(before);
        if let Some(old) = old {
            let _ = self.drain(name, old);
        }
    }

    /// Handles the end of a successor that was not ready.
    pub(super) fn successor_ended(&mut self, i: usize, status: &io::Result<ExitStatus>) {
        let instance = &mut self.instances[i];
        let Some(Successor { line, process, .. }) = instance.successor.take() else { return };
        if self.stopping.is_some() {
            return;
        }
        match (&instance.process, &mut instance.inactive) {
            (None, Some(Inactive::RetryAt(again))) => *again = Instant::now(),
            (None, _) => instance.release(&mut self.inherited_listeners),
            (Some(_), _) => instance.release_if_draining(&mut self.inherited_listeners),
        }
        let (why, code) = exit_reason(process, status);
        self.refuse(i, &line, &why, code);
    }

    /// Records and logs why an instance keeps its old line.
    fn refuse(&mut self, i: usize, line: &Line, why: &str, code: u8) {
        let goes_on = match self.instances[i].process {
            Some(_) => "; the old process serves on, with the old line",
            None => "",
        };
        let why = format!("{}: {why}{goes_on}", line.position);
        error!(instance = %line.name, reason = why, exit_code = code, "instance not replaced");
        if let Some(reload) = &mut self.reload {
            reload.refused.insert(line.name.clone(), (why, code));
        }
    }

    /// Ends the reload when its new processes are ready or have failed, and its drained processes
    /// have closed their listeners.
    pub(super) fn finish_reload(&mut self) {
        let Some(Reload { steps: Some(steps), .. }) = &self.reload else { return };
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        let is_started = |name: &InstanceName| {
            steps
                .iter()
                .any(|(other, done)| other == name && matches!(done, StepResult::Started(_)))
        };
        let is_open = |instance: &ManagedInstance| {
            is_started(instance.name()) && (instance.is_starting() || instance.successor.is_some())
        };
        let is_listening = |process: &Process| !process.released.is_cancelled();
        if self.instances.iter().any(is_open)
            || self.draining.iter().any(|l| is_listening(&l.process))
        {
            return;
        }
        let Some(mut reload) = self.reload.take() else { return };
        let (mut changed, mut failed, mut code) = (Vec::new(), Vec::new(), 0);
        for (name, done) in reload.steps.take().unwrap_or_default() {
            let instance = self.instances.iter().find(|instance| *instance.name() == name);
            let instance = instance.filter(|instance| instance.has_failed());
            let outcome = match (done, reload.refused.remove(&name), instance) {
                (StepResult::Failed(why), ..) => Err((why, UNRESOLVED)),
                (StepResult::Changed(what), ..) => Ok(what),
                (StepResult::Started(_), Some(refused), _) => Err(refused),
                (StepResult::Started(_), None, Some(failed)) => {
                    Err((failed.why.clone(), failed.code))
                }
                (StepResult::Started(what), None, None) => Ok(what),
            };
            match outcome {
                Ok(what) => changed.push(format!("{name}: {what}")),
                Err((why, exit_code)) => {
                    failed.push(why);
                    code = if code == 0 { exit_code } else { code };
                }
            }
        }
        self.reload = Some(reload);
        self.end_reload(match failed.is_empty() {
            true => SupervisorReply::Reloaded(changed),
            false => SupervisorReply::PartlyReloaded { changed, failed, code },
        });
    }

    fn give_up_reload(&mut self) {
        self.end_reload(SupervisorReply::Refused("balance is stopping".to_owned()));
    }

    pub(super) fn end_reload(&mut self, reply: SupervisorReply) {
        match &reply {
            SupervisorReply::Reloaded(changed) => info!(changed = changed.join("; "), "reloaded"),
            SupervisorReply::PartlyReloaded { changed, failed, .. } => {
                warn!(changed = changed.join("; "), failed = failed.join("; "), "reloaded in part");
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
        if let Some(Reload { reply: Some(sender), .. }) = self.reload.take() {
            // The client may be gone.
            let _ = sender.send(reply);
        }
        if let Some(next) = self.queued_reloads.pop_front() {
            self.begin_reload(next);
        }
    }
}
