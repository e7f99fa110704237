//! The supervisor: owns the listeners of all lines of a configuration file, and keeps a server
//! process that serves them.
//!
//! Invariants:
//! - An event of one instance does not affect the other instances.
//! - The listeners and files of an instance belong to the supervisor, so a replacement of the
//!   server process refuses no client. The supervisor closes the listeners of an instance that
//!   fails to start, so clients connect to another host.
//! - The running process drains only after its successor serves.
//! - A file with a mistake changes no running instance.
//! - Reloads run one after the other.

use std::{
    collections::VecDeque,
    io, mem,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    select,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    task::AbortHandle,
    time::{MissedTickBehavior, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    changes::{Reload, Successor, Upgrade},
    conf::{Conf, Line},
    event::Event,
    generation::Generation,
    manager,
    member::{Control, ManagedInstance, State},
    output::{UNAVAILABLE, WRONG, plural, print_error},
};
use crate::{
    control::{
        protocol::{SupervisorCommand, SupervisorReply, SupervisorStatus},
        run_dir::RunDir,
    },
    error::StartError,
    io::inherited::InheritedListeners,
    notify,
    process::{
        self,
        protocol::{self, SpawnConfig},
    },
    sys::{
        self,
        daemon::ReadyNotifier,
        signals::{SignalAction, Signals},
    },
};

/// Interval between pings of the server process, and between messages to the service manager.
const INTERVAL: Duration = Duration::from_secs(1);

/// Exit code of a background supervisor that is stopped before it has tried to start every
/// instance: EX_UNAVAILABLE of sysexits(3).
const STOPPED_EARLY: u8 = 69;

/// Exit code of a process that hangs: EX_SOFTWARE of sysexits(3).
const HANGS: u8 = 70;

/// Exit code of a process that a signal has ended: EX_SOFTWARE of sysexits(3).
const KILLED: u8 = 70;

/// Exit code when the system refuses a process, or a wait for its end: EX_OSERR of sysexits(3).
const NO_PROCESS: u8 = 71;

/// Threads that look up names or bind addresses at the same time.
const THREADS: usize = 16;

/// The settings of a supervisor.
pub(super) struct SupervisorSettings {
    /// Absolute path of the configuration file.
    pub(super) file: PathBuf,
    /// Absolute path of the given run directory; none for the default.
    pub(super) run_dir: Option<PathBuf>,
    /// The path of the program. An upgrade executes what is there.
    pub(super) program: PathBuf,
    /// The directory of the control sockets.
    pub(super) dir: RunDir,
    /// Run in the background: log to syslog and detach from the terminal.
    pub(super) background: bool,
    /// Write the foreground log as JSON.
    pub(super) json: bool,
}

/// What the program does after the supervisor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopAction {
    /// Exit with this code.
    Exit(u8),
    /// Execute the program again.
    Restart,
    /// Exit, and leave the server processes to the next supervisor.
    Leave,
    /// Execute the program on the disk, which takes over state and processes.
    Upgrade,
}

/// The supervisor.
pub(super) struct Supervisor {
    pub(super) settings: SupervisorSettings,
    pub(super) instances: Vec<ManagedInstance>,
    /// The process that serves the instances.
    pub(super) current: Option<Generation>,
    /// A process that replaces the current one as soon as it serves.
    pub(super) next: Option<Successor>,
    /// Processes that serve their last connections.
    pub(super) draining: Vec<Generation>,
    /// When a process that has ended is to be replaced.
    pub(super) respawn: Option<Instant>,
    backoff: Backoff,
    /// Mistakes of the file, each as `FILE:LINE: REASON`.
    pub(super) wrong: Vec<String>,
    pub(super) inherited_listeners: InheritedListeners,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    pub(super) last_id: u64,
    /// The files and the control socket of the supervisor.
    pub(super) own: Control,
    pub(super) control_service: Option<AbortHandle>,
    /// The takeover socket.
    takeover: UnixListener,
    /// Start time on the monotonic clock, which tells a restarted supervisor from the one before.
    began: u64,
    /// Reports to the starting process once every instance has been tried.
    ready_notifier: Option<ReadyNotifier>,
    /// Every instance has been tried once.
    pub(super) is_started: bool,
    pub(super) stopping: Option<StopAction>,
    /// The current reload.
    pub(super) reload: Option<Reload>,
    /// Reloads that wait for the current one.
    pub(super) queued_reloads: VecDeque<oneshot::Sender<SupervisorReply>>,
    /// An upgrade that has not executed the new program yet.
    pub(super) upgrade: Option<Upgrade>,
    /// A request to the service manager is in progress: does it restart the service?
    pub(super) is_asking: bool,
    /// The processes are left to the next supervisor.
    is_leaving: bool,
    /// Another supervisor started the current process; a successor replaces it.
    pub(super) is_taking_over: bool,
    /// The outcome of the takeover, and the clients that wait for it.
    pub(super) taken_over: Option<SupervisorReply>,
    pub(super) waiting: Vec<oneshot::Sender<SupervisorReply>>,
    /// Permits of the threads that look up names and bind addresses.
    pub(super) threads: Arc<Semaphore>,
    /// The last status text sent to the service manager.
    pub(super) last_status: String,
}

impl Supervisor {
    /// Makes a supervisor for a parsed file, with the listeners of the service manager.
    pub(super) fn new(
        settings: SupervisorSettings,
        conf: Conf,
        inherited_listeners: InheritedListeners,
        ready_notifier: Option<ReadyNotifier>,
        own: Control,
        takeover: UnixListener,
        (sender, events): (UnboundedSender<Event>, UnboundedReceiver<Event>),
    ) -> Self {
        let wrong = conf.wrong();
        let instances: Vec<_> = conf.lines.into_iter().zip(1..).collect();
        Self {
            settings,
            last_id: instances.len() as u64,
            own,
            control_service: None,
            takeover,
            instances: instances
                .into_iter()
                .map(|(line, id)| ManagedInstance::new(line, id))
                .collect(),
            current: None,
            next: None,
            draining: Vec::new(),
            respawn: None,
            backoff: Backoff::default(),
            wrong,
            inherited_listeners,
            events,
            sender,
            began: sys::monotonic(),
            ready_notifier,
            is_started: false,
            stopping: None,
            reload: None,
            queued_reloads: VecDeque::new(),
            upgrade: None,
            threads: Arc::new(Semaphore::new(THREADS)),
            is_asking: false,
            is_leaving: false,
            is_taking_over: false,
            taken_over: None,
            waiting: Vec::new(),
            last_status: String::new(),
        }
    }

    /// Returns a sender for events.
    pub(super) fn sender(&self) -> UnboundedSender<Event> {
        self.sender.clone()
    }

    /// The takeover socket.
    pub(super) fn takeover(&self) -> &UnixListener {
        &self.takeover
    }

    /// A number for an instance that no process knows yet.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Starts all instances.
    pub(super) fn start_all(&mut self) {
        for wrong in &self.wrong {
            error!(reason = wrong, "invalid configuration line");
        }
        (0..self.instances.len()).for_each(|i| self.prepare(i));
    }

    /// Removes listeners that no line uses from the descriptor store of the service manager.
    pub(super) fn remove_stored(&mut self) {
        for name in self.inherited_listeners.close_stored() {
            if self.instances.iter().all(|instance| instance.stored_name() != name) {
                notify::remove_from_store(&name);
            }
        }
    }

    /// Supervises the instances until the supervisor is stopped and every process has ended, or
    /// until the program is to be replaced.
    ///
    /// # Errors
    /// [`StartError::System`] when the process cannot detach from the terminal.
    pub(super) async fn run(&mut self, signals: &mut Signals) -> Result<StopAction, StartError> {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.report_started()?;
            self.finish_reload().await;
            if let Some(after) = self.stopping
                && self.processes().next().is_none()
            {
                return Ok(self.stop_action(after));
            }
            if self.is_leaving {
                return Ok(StopAction::Leave);
            }
            if self.is_upgrade_due() {
                return Ok(StopAction::Upgrade);
            }
            self.report_status();
            let retry = self.next_try();
            select! {
                // A reply that has arrived precedes the check for hung processes.
                biased;
                event = self.events.recv() => {
                    self.handle(event.expect("the supervisor holds a sender")).await;
                }
                action = signals.next() => self.signalled(action),
                () = sleep_until(retry.unwrap_or_else(Instant::now).into()), if retry.is_some() => {
                    self.try_again();
                }
                // Each tick also sends the status to the service manager.
                _ = tick.tick() => self.watch(),
            }
        }
    }

    /// The stop action, with an error code if a starting process still waits for the result.
    fn stop_action(&self, after: StopAction) -> StopAction {
        match after {
            StopAction::Exit(0) if self.ready_notifier.is_some() => StopAction::Exit(STOPPED_EARLY),
            after => after,
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Exited(pid, status) => self.on_exit(pid, &status),
            Event::Process(pid, event) => self.on_event(pid, event),
            Event::Prepared(id, prepared) => self.on_prepared(id, prepared),
            Event::Checked(result) => self.on_checked(result),
            Event::Terminated { is_restart } => self.on_terminated(is_restart),
            Event::Command(command, reply) => self.on_command(command, reply).await,
        }
    }

    async fn on_command(
        &mut self,
        command: SupervisorCommand,
        reply: oneshot::Sender<SupervisorReply>,
    ) {
        let answer = match command {
            SupervisorCommand::Instances => SupervisorReply::Instances(self.table()),
            SupervisorCommand::Reload => return self.begin_reload(reply),
            SupervisorCommand::Upgrade => return self.begin_upgrade(reply),
            SupervisorCommand::Takeover => match &self.taken_over {
                Some(outcome) => outcome.clone(),
                None if self.is_taking_over => return self.waiting.push(reply),
                None => SupervisorReply::Refused("no takeover is in progress".to_owned()),
            },
            SupervisorCommand::Stop => self.stop_by_command(StopAction::Exit(0)),
            SupervisorCommand::Restart => self.stop_by_command(StopAction::Restart),
        };
        // The client may be gone.
        let _ = reply.send(answer);
    }

    pub(super) fn signalled(&mut self, action: SignalAction) {
        match action {
            SignalAction::Drain if manager::may_restart() && !self.is_asking => {
                self.is_asking = true;
                let sender = self.sender();
                tokio::spawn(async move {
                    let _ =
                        sender.send(Event::Terminated { is_restart: manager::restarts().await });
                });
            }
            SignalAction::Drain => self.stop(Signal::SIGTERM, StopAction::Exit(0)),
            SignalAction::Abort => self.stop(Signal::SIGINT, StopAction::Exit(0)),
            SignalAction::Reload => self.again(oneshot::channel().0),
            SignalAction::Upgrade => self.begin_upgrade(oneshot::channel().0),
        }
    }

    /// The service manager stops or restarts the service. During a restart the processes continue
    /// to serve: the next supervisor takes them over.
    fn on_terminated(&mut self, is_restart: bool) {
        if self.stopping.is_some() {
            return;
        }
        self.is_leaving = is_restart && self.current.is_some();
        if self.is_leaving && self.next.is_some() {
            self.next_failed("the service manager restarts the service", RESTARTED);
        }
        if self.is_leaving {
            info!(open = self.connections(), "leaving the server process to the next supervisor");
            notify::stopping();
        } else {
            self.stop(Signal::SIGTERM, StopAction::Exit(0));
        }
    }

    /// Reloads after the other events that have arrived.
    pub(super) fn again(&self, reply: oneshot::Sender<SupervisorReply>) {
        let _ = self.sender.send(Event::Command(SupervisorCommand::Reload, reply));
    }

    /// Stops by command. A second command does not abort connections, unlike a second signal.
    fn stop_by_command(&mut self, after: StopAction) -> SupervisorReply {
        if self.stopping.is_none() {
            self.stop(Signal::SIGTERM, after);
            return SupervisorReply::Done;
        }
        self.stopping = Some(after);
        SupervisorReply::Already
    }

    fn stop(&mut self, signal: Signal, after: StopAction) {
        info!(open = self.connections(), "stopping");
        self.stopping = Some(after);
        self.respawn = None;
        self.refuse_upgrade((vec!["balance is stopping".to_owned()], UNAVAILABLE));
        if after == StopAction::Restart {
            // For the service manager the process continues.
            notify::reloading();
        }
        for instance in &mut self.instances {
            instance.release(&mut self.inherited_listeners);
            instance.state = State::Stopped;
        }
        self.processes().for_each(|process| process.signal(signal));
    }

    /// Reports the start to the starting process and to the service manager, once every instance
    /// has been tried.
    fn report_started(&mut self) -> Result<(), StartError> {
        let all_tried = self.instances.iter().all(|instance| !instance.is_starting());
        if self.is_started || !all_tried || self.is_taking_over || self.stopping.is_some() {
            return Ok(());
        }
        self.is_started = true;
        self.remove_stored();
        let serving = self.serving();
        let all = self.instances.len() + self.wrong.len();
        info!(serving, instances = all, file = %self.settings.file.display(), "supervisor started");
        let failed = self.instances.iter().find_map(ManagedInstance::failure);
        let failed = failed.map(|(_, code)| code);
        let is_first = self.taken_over.is_none();
        if is_first && serving == 0 && all > 0 {
            // No instance serves: stop. The exit code tells the service manager whether to restart:
            // it does not restart if the only problem is a mistake in the file.
            self.stop(Signal::SIGTERM, StopAction::Exit(failed.unwrap_or(WRONG)));
            return Ok(());
        }
        let code = if self.wrong.is_empty() { failed.unwrap_or(0) } else { WRONG };
        for listener in self.inherited_listeners.addresses() {
            warn!(listener, "unused LISTEN_FDS socket");
        }
        if let Some(ready_notifier) = self.ready_notifier.take() {
            ready_notifier
                .notify(code)
                .map_err(|source| StartError::System { act: "go to the background", source })?;
        }
        notify::ready();
        Ok(())
    }

    fn serving(&self) -> usize {
        let serves = |instance: &&ManagedInstance| matches!(instance.state, State::Serving);
        self.instances.iter().filter(serves).count()
    }

    fn connections(&self) -> u64 {
        self.processes().map(|process| process.open).sum()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Generation> {
        let next = self.next.iter().map(|next| &next.process);
        self.current.iter().chain(next).chain(&self.draining)
    }

    /// Sends the current status to the service manager if it has changed.
    fn report_status(&mut self) {
        if !notify::is_enabled() {
            return;
        }
        let open = usize::try_from(self.connections()).unwrap_or(usize::MAX);
        match self.stopping {
            Some(StopAction::Exit(_)) => notify::stopping(),
            None if self.is_started => {}
            _ => notify::starting(),
        }
        let all = self.instances.len() + self.wrong.len();
        let text = match self.stopping {
            Some(_) => notify::draining(open),
            None => {
                let serving = self.serving();
                format!("{serving} of {all} instances serve, {}", plural(open, "connection"))
            }
        };
        if text != self.last_status {
            notify::status(&text);
            self.last_status = text;
        }
    }

    fn table(&self) -> SupervisorStatus {
        let dir = &self.settings.dir;
        let rows = self.instances.iter().map(|instance| instance.row(dir, self.current.as_ref()));
        let is_managed = |id| self.instances.iter().any(|instance| instance.id == id);
        let draining = self.processes().flat_map(|it| it.draining_rows(is_managed));
        SupervisorStatus {
            foreground: !self.settings.background,
            began: self.began,
            settled: self.is_started,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stopping: self.stopping.is_some(),
            wrong: self.wrong.clone(),
            processes: self.processes().map(Generation::row).collect(),
            instances: rows.chain(draining).collect(),
        }
    }

    /// Time of the next retry of any instance, or of the server process.
    fn next_try(&self) -> Option<Instant> {
        let instances = self.instances.iter().filter_map(ManagedInstance::next_try);
        instances.chain(self.respawn).min()
    }

    fn try_again(&mut self) {
        let now = Instant::now();
        for i in 0..self.instances.len() {
            if self.instances[i].next_try().is_some_and(|at| at <= now) {
                self.start(i);
            }
        }
        if self.respawn.is_some_and(|at| at <= now) {
            self.spawn_process();
        }
    }

    /// Spawns a server process for all instances that are to be served.
    pub(super) fn spawn_process(&mut self) {
        self.respawn = None;
        if self.stopping.is_some() || !self.instances.iter().any(ManagedInstance::is_wanted) {
            return;
        }
        let mut process = match Generation::spawn(self.config(), &self.takeover, &self.sender) {
            Ok(process) => process,
            Err(error) => {
                return self.no_process(&format!("cannot start a process: {error}"), NO_PROCESS);
            }
        };
        info!(pid = process.pid, "server process started");
        for i in 0..self.instances.len() {
            let instance = &mut self.instances[i];
            if instance.is_wanted() {
                instance.state = State::Starting;
                if let Err(error) = instance.serve(&mut process, instance.id, &instance.line) {
                    self.failed(i, &cannot_pass_on(&error), PASS_ON);
                }
            }
        }
        if let Some(mut old) = self.current.replace(process) {
            old.drain();
            self.draining.push(old);
        }
    }

    /// The settings of a server process for the present lines.
    pub(super) fn config(&self) -> SpawnConfig {
        config(self.instances.iter().map(|instance| &instance.line), &self.settings)
    }

    /// Records that there is no server process, and schedules the next try.
    fn no_process(&mut self, why: &str, code: u8) {
        let wait = self.backoff.after(None);
        self.respawn = Some(Instant::now() + wait);
        error!(reason = why, exit_code = code, retry_seconds = wait.as_secs(), "no server process");
        for i in 0..self.instances.len() {
            if self.instances[i].is_wanted() {
                self.failed(i, why, code);
            }
        }
    }

    /// Records and logs why an instance cannot serve, and schedules the next try.
    pub(super) fn failed(&mut self, i: usize, why: &str, code: u8) {
        let instance = &mut self.instances[i];
        let wait = instance.backoff.after(None);
        let why = format!("{}: {why}", instance.line.position);
        if self.ready_notifier.is_some() && !mem::replace(&mut instance.has_been_told, true) {
            print_error(&why);
        }
        error!(
            instance = %instance.line.name,
            reason = why,
            exit_code = code,
            retry_seconds = wait.as_secs(),
            "instance failed"
        );
        instance.state = State::Failed { why, code, retry: Instant::now() + wait };
        // Refused clients can connect to another host.
        instance.release(&mut self.inherited_listeners);
    }

    fn on_exit(&mut self, pid: u32, status: &io::Result<ExitStatus>) {
        if let Some(i) = self.draining.iter().position(|process| process.pid == pid) {
            self.draining.remove(i);
            info!(pid, "drained process ended");
            return;
        }
        if let Some(next) = self.next.take_if(|next| next.process.pid == pid) {
            let (why, code) = exit_reason(&next.process, status);
            self.next_failed(&why, code);
            return;
        }
        let Some(process) = self.current.take_if(|process| process.pid == pid) else { return };
        let (why, code) = exit_reason(&process, status);
        if self.stopping.is_some() {
            info!(pid, "server process stopped");
            return;
        }
        match process.serving_since {
            // The new process serves the same listeners.
            _ if self.next.is_some() => {
                error!(pid, reason = why, "server process ended, another is starting");
                self.respawn = Some(Instant::now() + self.backoff.after(None));
            }
            Some(since) => {
                let wait = self.backoff.after(Some(since.elapsed()));
                self.respawn = Some(Instant::now() + wait);
                let retry_seconds = wait.as_secs();
                error!(pid, reason = why, retry_seconds, "server process ended, starting another");
                if wait.is_zero() {
                    self.spawn_process();
                }
            }
            None => self.no_process(&why, code),
        }
        self.reload_lost();
    }

    fn on_event(&mut self, pid: u32, event: protocol::Event) {
        let next = self.next.iter_mut().map(|next| &mut next.process);
        let mut all = self.current.iter_mut().chain(next).chain(&mut self.draining);
        let Some(process) = all.find(|process| process.pid == pid) else { return };
        process.apply(&event);
        if self.stopping.is_some() {
            return;
        }
        if let protocol::Event::Differences { instances } = event {
            return self.differences_found(pid, instances);
        }
        if self.next.as_ref().is_some_and(|next| next.process.pid == pid) {
            self.on_event_of_next(&event);
        } else if self.current.as_ref().is_some_and(|process| process.pid == pid) {
            self.on_event_of_current(event);
        }
    }

    fn on_event_of_current(&mut self, event: protocol::Event) {
        match event {
            protocol::Event::Served { id } => {
                if self.replacement_served(id) {
                    return;
                }
                let pid = self.current.as_ref().map_or(0, |process| process.pid);
                if let Some(instance) = self.instances.iter_mut().find(|it| it.id == id) {
                    info!(instance = %instance.line.name, pid, "instance started");
                    instance.state = State::Serving;
                    instance.backoff = Backoff::default();
                    instance.publish(pid);
                }
            }
            protocol::Event::Failed { id, reason, exit_code } => {
                self.removed(id);
                if self.replacement_failed(id, &reason, exit_code) {
                    return;
                }
                if let Some(i) = self.instances.iter().position(|it| it.id == id) {
                    self.failed(i, &reason, exit_code);
                }
            }
            protocol::Event::Configured { id, outcome } => self.configured(id, outcome),
            protocol::Event::Released { id, by_command } => {
                self.removed(id);
                let Some(instance) = self.instances.iter_mut().find(|it| it.id == id) else {
                    return;
                };
                if by_command {
                    info!(instance = %instance.line.name, "instance stopped");
                    instance.release(&mut self.inherited_listeners);
                    instance.state = State::Stopped;
                } else if let Some(mut process) = self.current.take() {
                    warn!(
                        pid = process.pid,
                        "server process was stopped by a signal, starting another"
                    );
                    process.draining_since = Some(Instant::now());
                    self.draining.push(process);
                    self.spawn_process();
                    self.reload_lost();
                }
            }
            protocol::Event::Pong => notify::watchdog(),
            protocol::Event::Supervised { .. }
            | protocol::Event::Ended { .. }
            | protocol::Event::Status { .. }
            | protocol::Event::Differences { .. }
            | protocol::Event::CannotStart { .. } => {}
        }
    }

    /// Pings the server processes, and kills a process that does not reply in time.
    fn watch(&mut self) {
        // Without a process that serves, the supervisor itself limits every wait.
        let serves = self.current.as_ref().is_some_and(|process| process.serving_since.is_some());
        if !serves || self.stopping.is_some() {
            notify::watchdog();
        }
        if let Some(next) = &mut self.next {
            next.process.ping();
            if next.process.is_hung() {
                self.next_failed("the new process hangs", HANGS);
            }
        }
        for process in self.current.iter_mut().chain(&mut self.draining) {
            process.ping();
            if process.is_hung() {
                error!(pid = process.pid, "server process hangs, killing it");
                process.signal(Signal::SIGKILL);
            }
        }
    }
}

/// Exit code of a successor that the restart of the service has ended: EX_TEMPFAIL of sysexits(3).
const RESTARTED: u8 = 75;

/// Exit code of an instance whose listeners cannot be passed on: EX_OSERR of sysexits(3).
pub(super) const PASS_ON: u8 = 71;

/// Why listeners cannot be passed on.
pub(super) fn cannot_pass_on(error: &io::Error) -> String {
    format!("cannot pass listeners to the server process: {error}")
}

/// The settings of a server process for these lines.
pub(super) fn config<'a>(
    lines: impl Iterator<Item = &'a Line> + Clone,
    settings: &SupervisorSettings,
) -> SpawnConfig {
    let mut limits = lines.clone().map(|line| line.args.max_connections);
    let limits = limits.try_fold(0usize, |sum, limit| Some(sum.saturating_add(limit?.get())));
    let count = lines.clone().count();
    let first = lines.clone().next();
    SpawnConfig {
        words: first.map(|line| line.words.clone()).unwrap_or_default(),
        file: settings.file.clone(),
        instances: count,
        listeners: lines.map(|line| process::start::workers(&line.args)).sum(),
        max_connections: limits,
        background: settings.background,
        json: settings.json,
    }
}

/// Returns why a process has ended, and the exit code to report.
pub(super) fn exit_reason(process: &Generation, status: &io::Result<ExitStatus>) -> (String, u8) {
    if let Some(failure) = &process.failure {
        return failure.clone();
    }
    match status {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            (format!("the process ended: {status}"), code.unwrap_or(KILLED))
        }
        Err(e) => (format!("cannot wait for the process: {e}"), NO_PROCESS),
    }
}
