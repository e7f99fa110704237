//! A reload: what runs follows the file.
//!
//! Order: the file is read and everything in it looked up, which changes nothing. Processes that can take their new
//! arguments are told them; those of lines that are gone drain, and are waited for until their addresses are free.
//! Then processes for other lines are started. Where one is to take the place of another, both accept from the same
//! listeners for a while:
//!
//! 1. The new process starts beside the old one, which serves on and is found on the control socket.
//! 2. The new process serves, and says so. From then on it is the instance's.
//! 3. Its control socket takes the name of the old one's, at once ([`InstanceFiles::publish`]).
//! 4. The old process is asked to drain over its parent death pipe, stops accepting, says so, and ends with its connections.
//!
//! A new process that ends before 2 changes nothing. An old process that does not serve yet is told to leave before
//! the new one starts, and never gets the name. The supervisor holds the lock of the instance all along, so no
//! process ever waits for another to let go of it. A reload has come to its end when every process of it serves or
//! has failed, and every process that it has told to leave accepts no more.
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

/// What goes with a name that does not resolve: EX_DATAERR of sysexits(3).
const UNRESOLVED: u8 = 65;

/// A reload, from the file to the last instance that it starts.
pub(super) struct Reload {
    /// Where the answer goes; `None` for a signal.
    reply: Option<oneshot::Sender<SupervisorReply>>,
    /// What it has done for each instance, in order; nothing before it has begun to.
    steps: Option<Vec<(InstanceName, StepResult)>>,
    /// New processes that did not come up beside the old one: by instance why, and the exit code that goes with it.
    refused: HashMap<InstanceName, (String, u8)>,
}

/// What a reload has done for an instance.
enum StepResult {
    /// This, to its end.
    Changed(&'static str),
    /// This has begun, with a process that is started for it.
    Begun(&'static str),
    /// It could not.
    Failed(String),
}

impl Supervisor {
    /// Begins to load the file again, when the reload before has come to its end. Nothing here waits: what
    /// takes time comes back as an event.
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
            Ok(conf) => return self.end_reload(SupervisorReply::InvalidFile(conf.wrong(&file))),
            Err(error) => {
                return self.end_reload(SupervisorReply::InvalidFile(vec![error.to_string()]));
            }
        };
        let plan = self.plan(conf.lines.clone());
        let changed = plan.steps.into_iter().filter(|(_, step)| *step != Step::Keep);
        let changed: Vec<Line> = changed.map(|(line, _)| line).collect();
        let events = self.sender();
        tokio::spawn(async move {
            let wrong = check::all_lines(changed, file).await;
            let checked = if wrong.is_empty() { Ok(conf.lines) } else { Err(wrong) };
            let _ = events.send(Event::Checked(checked));
        });
    }

    /// What these lines ask for. Who does not run gets another process, whatever has changed.
    fn plan(&self, lines: Vec<Line>) -> Plan {
        let mut plan = plan(self.instances.iter().map(|instance| &instance.line), lines);
        for (line, step) in &mut plan.steps {
            let Some(instance) = self.instances.iter().find(|i| *i.name() == line.name) else {
                continue;
            };
            let is_under_way = *step == Step::Keep && instance.is_starting();
            if instance.state() != InstanceState::Running && !is_under_way {
                *step = Step::Replace;
            }
        }
        plan
    }

    /// Tells processes that run what is asked of them: to take other arguments, or to leave.
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
        let orders = configure.filter_map(|(line, _)| {
            let instance = self.instances.iter().find(|i| *i.name() == line.name)?;
            Some((line.name.clone(), instance.paths(&self.settings.dir), line.words.clone()))
        });
        let orders = orders.collect();
        let events = self.sender();
        tokio::spawn(async move {
            let replies = instance_rpc::configure_all(orders).await;
            for process in left {
                process.cancelled().await;
            }
            let _ = events.send(Event::Configured(plan, replies));
        });
    }

    /// Does what is left to do when the processes have been told: starts others.
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
                    StepResult::Begun("started")
                }
                Some(i) => match self.apply_step(i, line, step, replies.get(&name)).await {
                    Some(done) => done,
                    None => continue,
                },
            };
            steps.push((name, done));
        }
        let place =
            |instance: &ManagedInstance| order.iter().position(|name| name == instance.name());
        self.instances.sort_by_key(place);
        if let Some(reload) = &mut self.reload {
            reload.steps = Some(steps);
        }
    }

    /// Has an instance follow its line; nothing if there is nothing to do.
    async fn apply_step(
        &mut self,
        i: usize,
        line: Line,
        step: Step,
        reply: Option<&Result<InstanceReply, String>>,
    ) -> Option<StepResult> {
        match (step, reply) {
            (Step::Keep, _) => {
                self.instances[i].line.number = line.number;
                None
            }
            (Step::Configure, Some(Ok(InstanceReply::Done | InstanceReply::Already))) => {
                self.instances[i].line = line;
                Some(StepResult::Changed("changed"))
            }
            (Step::Configure, Some(Ok(InstanceReply::InvalidAddress(why)) | Err(why))) => {
                let file = self.settings.file.display();
                Some(StepResult::Failed(format!("{file}:{}: {why}", line.number)))
            }
            // Also where the process that runs says that it takes another one after all.
            (Step::Configure | Step::Replace | Step::Start, _) => {
                let did = if self.instances[i].inactive.is_none() { "replaced" } else { "started" };
                self.replace(i, line).await;
                Some(StepResult::Begun(did))
            }
        }
    }

    /// Starts a process with another line, beside the one that serves if there is one.
    async fn replace(&mut self, i: usize, line: Line) {
        let serves = |process: &Process| process.serving.is_some() && !process.is_draining;
        if self.instances[i].process.as_ref().is_some_and(serves) {
            match self.spawn(i, &line).await {
                Ok((process, names)) => {
                    info!(instance = %line.name, pid = process.pid, "started beside the old one");
                    self.instances[i].successor = Some(Successor { line, process, names });
                }
                Err(why) => self.refuse(i, &line, &why.to_string(), why.exit_code()),
            }
            return;
        }
        let instance = &mut self.instances[i];
        (instance.line, instance.backoff) = (line, Backoff::default());
        if let Some(process) = instance.process.take() {
            // It drains, as an operator has asked for, or does not serve yet: then no name leads to it, and its
            // socket is removed for that of the new one.
            let name = instance.name().clone();
            let _ = self.drain(name, process);
        }
        self.start(i).await;
    }

    /// The new process of an instance serves: the old one, if it is still there, may leave.
    pub(super) fn take_over(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        let Some(Successor { line, process, names }) = instance.successor.take() else { return };
        let name = line.name.clone();
        info!(instance = %name, pid = process.pid, "has taken over");
        (instance.line, instance.backoff, instance.inactive) = (line, Backoff::default(), None);
        let old = instance.process.replace(process);
        let before = names.and_then(|names| instance.names.replace(names));
        instance.publish();
        // Only now: clients find a process in one directory or the other.
        drop(before);
        if let Some(old) = old {
            let _ = self.drain(name, old);
        }
    }

    /// The new process of an instance has ended before it served.
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

    /// Says why an instance does not follow its line.
    fn refuse(&mut self, i: usize, line: &Line, why: &str, code: u8) {
        let file = self.settings.file.display();
        let goes_on = match self.instances[i].process {
            Some(_) => "; the old process serves on, with the old line",
            None => "",
        };
        let why = format!("{file}:{}: {why}{goes_on}", line.number);
        error!(instance = %line.name, "{why}");
        if let Some(reload) = &mut self.reload {
            reload.refused.insert(line.name.clone(), (why, code));
        }
    }

    /// Ends a reload when all that it has started serve, or have failed, and all that are to leave have.
    pub(super) fn finish_reload(&mut self) {
        let Some(Reload { steps: Some(steps), .. }) = &self.reload else { return };
        if self.stopping.is_some() {
            self.give_up_reload();
            return;
        }
        let is_begun = |name: &InstanceName| {
            steps.iter().any(|(other, done)| other == name && matches!(done, StepResult::Begun(_)))
        };
        let is_open = |instance: &ManagedInstance| {
            is_begun(instance.name()) && (instance.is_starting() || instance.successor.is_some())
        };
        let leaves = |process: &Process| !process.released.is_cancelled();
        if self.instances.iter().any(is_open) || self.draining.iter().any(|l| leaves(&l.process)) {
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
                (StepResult::Begun(_), Some(refused), _) => Err(refused),
                (StepResult::Begun(_), None, Some(failed)) => {
                    Err((failed.why.clone(), failed.code))
                }
                (StepResult::Begun(what), None, None) => Ok(what),
            };
            match outcome {
                Ok(what) => changed.push(format!("{name}: {what}")),
                Err((why, its)) => {
                    failed.push(why);
                    code = if code == 0 { its } else { code };
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
            SupervisorReply::InvalidFile(wrong) => warn!(wrong = wrong.join("; "), "not reloaded"),
            _ => warn!("not reloaded"),
        }
        if self.is_started {
            notify::ready();
        }
        self.last_status.clear();
        if let Some(Reload { reply: Some(asker), .. }) = self.reload.take() {
            // Who asked may be gone.
            let _ = asker.send(reply);
        }
        if let Some(next) = self.queued_reloads.pop_front() {
            self.begin_reload(next);
        }
    }
}
