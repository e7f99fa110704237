//! The supervisor: runs one process for each line of a configuration file.
//!
//! Invariants:
//! - An event of one instance does not affect the other instances.
//! - The listeners and files of an instance belong to the supervisor, so a replacement of its
//!   process refuses no client. The supervisor closes the listeners of an instance that fails to
//!   start, so clients connect to another host.
//! - A running process drains only after its successor is ready.
//! - A file with a mistake changes no running instance.
//! - Reloads run one after the other.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    select,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    task::spawn_blocking,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    conf::{Conf, InstanceName, Line},
    event::Event,
    member::{Inactive, ManagedInstance},
    notify_socket::{Notification, NotifySocket},
    output::{WRONG, plural, print_error},
    process::{Process, SpawnContext, exit_reason},
    reload::Reload,
    spawn_config::SpawnConfig,
};
use crate::{
    control::{
        instance_files::InstanceFiles,
        protocol::{
            InstanceRow, InstanceState, SupervisorCommand, SupervisorReply, SupervisorStatus,
        },
        run_dir::RunDir,
    },
    error::StartError,
    instance::server,
    io::{inherited::InheritedListeners, listener},
    notify,
    sys::{
        self,
        daemon::ReadyNotifier,
        privileges,
        signals::{SignalAction, Signals},
    },
};

/// Interval between status messages to the service manager.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Exit code of a background supervisor that is stopped before it has tried to start every
/// instance: EX_UNAVAILABLE of sysexits(3).
const STOPPED_EARLY: u8 = 69;

/// The settings of a supervisor.
pub(super) struct SupervisorSettings {
    /// Absolute path of the configuration file.
    pub(super) file: PathBuf,
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
}

/// A process that serves its last connections and belongs to no instance any more.
pub(super) struct DrainingProcess {
    name: InstanceName,
    pub(super) process: Process,
}

/// Maximum time from the drain request until the process has closed its listeners.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The supervisor.
pub(super) struct Supervisor {
    pub(super) settings: SupervisorSettings,
    pub(super) instances: Vec<ManagedInstance>,
    pub(super) draining: Vec<DrainingProcess>,
    /// Mistakes of the file, each as `FILE:LINE: REASON`.
    pub(super) wrong: Vec<String>,
    pub(super) inherited_listeners: InheritedListeners,
    spawn_context: SpawnContext,
    events: UnboundedReceiver<Event>,
    /// Start time on the monotonic clock, which tells a restarted supervisor from the one before.
    began: u64,
    /// Reports to the starting process once every instance has been tried.
    ready_notifier: Option<ReadyNotifier>,
    /// Every instance has been tried once.
    pub(super) is_started: bool,
    pub(super) stopping: Option<StopAction>,
    /// The current reload.
    pub(super) reload: Option<Reload>,
    /// Reloads that wait for the current one. `None`: no reply is expected.
    pub(super) queued_reloads: VecDeque<Option<oneshot::Sender<SupervisorReply>>>,
    /// The last status text sent to the service manager.
    pub(super) last_status: String,
}

impl Supervisor {
    /// Makes a supervisor for a parsed file, with the listeners of the service manager.
    pub(super) fn new(
        settings: SupervisorSettings,
        conf: Conf,
        inherited_listeners: InheritedListeners,
        notify_socket: &NotifySocket,
        ready_notifier: Option<ReadyNotifier>,
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let notify_socket = notify_socket.path().to_owned();
        let spawn_context = SpawnContext { notify_socket, events: sender };
        let wrong = conf.wrong();
        Self {
            settings,
            instances: conf.lines.into_iter().map(ManagedInstance::new).collect(),
            draining: Vec::new(),
            wrong,
            inherited_listeners,
            spawn_context,
            events,
            began: sys::monotonic(),
            ready_notifier,
            is_started: false,
            stopping: None,
            reload: None,
            queued_reloads: VecDeque::new(),
            last_status: String::new(),
        }
    }

    /// Returns a sender for events.
    pub(super) fn sender(&self) -> UnboundedSender<Event> {
        self.spawn_context.events.clone()
    }

    /// Starts all instances and supervises them until the supervisor is stopped and every process
    /// has ended. Also returns the listeners of the service manager.
    ///
    /// # Errors
    /// [`StartError::System`] when the process cannot detach from the terminal.
    pub(super) async fn run(
        mut self,
        signals: &mut Signals,
    ) -> Result<(StopAction, InheritedListeners), StartError> {
        for wrong in &self.wrong {
            error!(reason = wrong, "invalid configuration line");
        }
        for i in 0..self.instances.len() {
            self.start(i).await;
        }
        loop {
            self.report_started()?;
            self.finish_reload();
            if let Some(after) = self.stopping
                && self.processes().next().is_none()
            {
                return Ok((self.stop_action(after), self.inherited_listeners));
            }
            self.report_status();
            let retry = self.next_try();
            select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => unreachable!("spawn_context holds a sender"),
                },
                action = signals.next() => self.signalled(action),
                () = sleep_until(retry.unwrap_or_else(Instant::now).into()), if retry.is_some() => {
                    self.try_again().await;
                }
                () = sleep(STATUS_INTERVAL), if notify::is_enabled() => {}
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
            Event::DrainOverdue(pid) => self.on_drain_overdue(pid),
            Event::Notified(pid, notification) => self.on_notification(pid, &notification),
            Event::Command(command, reply) => self.on_command(command, reply),
            Event::Checked(Ok(lines)) => self.configure_processes(lines),
            Event::Checked(Err(wrong)) => self.end_reload(SupervisorReply::InvalidFile(wrong)),
            Event::Configured(plan, replies) => self.start_processes(plan, replies).await,
        }
    }

    fn on_command(&mut self, command: SupervisorCommand, reply: oneshot::Sender<SupervisorReply>) {
        let answer = match command {
            SupervisorCommand::Instances => SupervisorReply::Instances(self.table()),
            SupervisorCommand::Reload => return self.begin_reload(Some(reply)),
            SupervisorCommand::Stop => self.stop_by_command(StopAction::Exit(0)),
            SupervisorCommand::Restart => self.stop_by_command(StopAction::Restart),
        };
        // The client may be gone.
        let _ = reply.send(answer);
    }

    fn signalled(&mut self, action: SignalAction) {
        match action {
            SignalAction::Drain => self.stop(Signal::SIGTERM, StopAction::Exit(0)),
            SignalAction::Abort => self.stop(Signal::SIGINT, StopAction::Exit(0)),
            SignalAction::Reload => self.begin_reload(None),
        }
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
        if after == StopAction::Restart {
            // For the service manager the process continues.
            notify::reloading();
        }
        for instance in &mut self.instances {
            instance.release_listeners(&mut self.inherited_listeners);
            instance.inactive = Some(Inactive::Stopped);
        }
        self.processes().for_each(|process| process.signal(signal));
    }

    /// Reports the start to the starting process and to the service manager, once every instance
    /// has been tried.
    fn report_started(&mut self) -> Result<(), StartError> {
        let all_tried = self.instances.iter().all(|instance| !instance.is_starting());
        if self.is_started || !all_tried || self.stopping.is_some() {
            return Ok(());
        }
        self.is_started = true;
        let serving = self.serving();
        let all = self.instances.len() + self.wrong.len();
        info!(serving, instances = all, file = %self.settings.file.display(), "supervisor started");
        let failed = self.instances.iter().find(|instance| instance.has_failed());
        let failed = failed.map(|instance| instance.code);
        if serving == 0 && all > 0 {
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
        self.instances.iter().filter(|instance| instance.state() == InstanceState::Running).count()
    }

    fn connections(&self) -> u64 {
        self.processes().map(|process| process.connections).sum()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let draining = self.draining.iter().map(|drained| &drained.process);
        self.instances.iter().flat_map(ManagedInstance::processes).chain(draining)
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
            notify::status(&text, open);
            self.last_status = text;
        }
    }

    fn table(&self) -> SupervisorStatus {
        let dir = &self.settings.dir;
        let rows = self.instances.iter().map(|instance| instance.row(dir));
        let draining = self.draining.iter().map(|drained| InstanceRow {
            name: drained.name.to_string(),
            state: InstanceState::Draining,
            pid: Some(drained.process.pid),
            socket: None,
            connections: drained.process.connections,
            status: drained.process.status.clone(),
        });
        SupervisorStatus {
            foreground: !self.settings.background,
            began: self.began,
            settled: self.is_started,
            stopping: self.stopping.is_some(),
            wrong: self.wrong.clone(),
            instances: rows.chain(draining).collect(),
        }
    }

    /// Time of the next retry of any instance.
    fn next_try(&self) -> Option<Instant> {
        self.instances.iter().filter_map(ManagedInstance::next_try).min()
    }

    async fn try_again(&mut self) {
        let now = Instant::now();
        for i in 0..self.instances.len() {
            if self.instances[i].next_try().is_some_and(|until| until <= now) {
                self.start(i).await;
            }
        }
    }

    /// Starts the process of an instance, with its present listeners or with new ones.
    pub(super) async fn start(&mut self, i: usize) {
        let line = self.instances[i].line.clone();
        let started = self.spawn(i, &line).await;
        let instance = &mut self.instances[i];
        match started {
            Ok((process, names)) => {
                info!(instance = %instance.line.name, pid = process.pid, "instance started");
                instance.process = Some(process);
                instance.names = names.or(instance.names.take());
                instance.inactive = None;
            }
            Err(why) => self.failed(i, &why.to_string(), why.exit_code(), None),
        }
    }

    /// Spawns a process for an instance with the arguments of `line`, which may be a new line.
    ///
    /// Also returns the files that the instance needs for the process, unless it has them already.
    /// The control socket is not published yet.
    pub(super) async fn spawn(
        &mut self,
        i: usize,
        line: &Line,
    ) -> Result<(Process, Option<InstanceFiles>), StartError> {
        let instance = &mut self.instances[i];
        let (args, is_bound) = (line.args.clone(), !instance.listeners.is_empty());
        let look_up = spawn_blocking(move || {
            let user = args.user.as_deref().map(privileges::find).transpose()?;
            // Bound listeners stay, even if the name has another address now.
            let address = if is_bound { None } else { server::listen_address(&args)? };
            Ok::<_, StartError>((address, user))
        });
        let lookup_failed = |e: tokio::task::JoinError| StartError::System {
            act: "look up an address",
            source: e.into(),
        };
        let (address, user) = look_up.await.map_err(lookup_failed)??;
        if !is_bound {
            let port = line.name.port;
            instance.listeners =
                self.inherited_listeners.take(listener::bind_address(address, port));
            instance.is_inherited = !instance.listeners.is_empty();
            if !instance.is_inherited {
                instance.listeners = listener::bind(address, port, server::workers(&line.args))?;
            }
        }
        let owner = user.map(|user| (user.uid, user.gid));
        let control = instance.control_socket(&self.settings.dir, line, owner);
        let (control, names) = control?;
        let config = SpawnConfig {
            listeners: instance.listeners.len(),
            listened: instance.is_inherited,
            background: self.settings.background,
            json: self.settings.json,
        };
        let process =
            Process::spawn(line, &instance.listeners, control, &config, &self.spawn_context)
                .map_err(|source| StartError::System { act: "start a process", source })?;
        Ok((process, names))
    }

    /// Records and logs why an instance has no process, and schedules the next try.
    fn failed(&mut self, i: usize, why: &str, code: u8, served: Option<Duration>) {
        let instance = &mut self.instances[i];
        let wait = instance.backoff.after(served);
        let why = format!("{}: {why}", instance.line.position);
        if self.ready_notifier.is_some() {
            print_error(&why);
        }
        error!(
            instance = %instance.line.name,
            reason = why,
            exit_code = code,
            retry_seconds = wait.as_secs(),
            "instance failed"
        );
        instance.process = None;
        instance.inactive = Some(Inactive::RetryAt(Instant::now() + wait));
        (instance.why, instance.code) = (why, code);
        match &instance.names {
            // The successor takes the listeners and files.
            _ if instance.successor.is_some() => {}
            Some(names) if served.is_some() => names.clear(),
            // Refused clients can connect to another host.
            _ => instance.release(&mut self.inherited_listeners),
        }
    }

    fn on_exit(&mut self, pid: u32, status: &io::Result<ExitStatus>) {
        if let Some(i) = self.draining.iter().position(|drained| drained.process.pid == pid) {
            let drained = self.draining.remove(i);
            drained.process.released.cancel();
            info!(instance = %drained.name, pid, "drained process ended");
            return;
        }
        let is_successor = |instance: &ManagedInstance| {
            instance.successor.as_ref().is_some_and(|next| next.process.pid == pid)
        };
        if let Some(i) = self.instances.iter().position(is_successor) {
            self.successor_ended(i, status);
            return;
        }
        let is_current =
            |instance: &ManagedInstance| instance.process.as_ref().is_some_and(|p| p.pid == pid);
        let Some(i) = self.instances.iter().position(is_current) else { return };
        let instance = &mut self.instances[i];
        let Some(process) = instance.process.take() else { return };
        process.released.cancel();
        let is_orderly = status.as_ref().is_ok_and(ExitStatus::success);
        if self.stopping.is_some() || is_orderly {
            info!(instance = %instance.line.name, pid, "instance stopped");
            instance.inactive = Some(Inactive::Stopped);
            instance.why = "stopped on request".to_owned();
            instance.release_unless_replaced(&mut self.inherited_listeners);
            return;
        }
        let served = process.serving.map(|since| since.elapsed());
        let (why, code) = exit_reason(process, status);
        self.failed(i, &why, code, served);
    }

    fn on_notification(&mut self, pid: u32, notification: &Notification) {
        let is_sender = |process: &&mut Process| process.pid == pid;
        let drained = self.draining.iter_mut().map(|drained| &mut drained.process).find(is_sender);
        if let Some(process) = drained {
            process.apply(notification);
            return;
        }
        let of =
            |instance: &ManagedInstance| instance.processes().any(|process| process.pid == pid);
        let Some(i) = self.instances.iter().position(of) else { return };
        let instance = &mut self.instances[i];
        if let Some(next) = instance.successor.as_mut().filter(|next| next.process.pid == pid) {
            next.process.apply(notification);
            if next.process.serving.is_some() && self.stopping.is_none() {
                self.take_over(i);
            }
            return;
        }
        let Some(process) = &mut instance.process else { return };
        let served = process.serving.is_some();
        process.apply(notification);
        if !served && process.serving.is_some() {
            instance.publish();
        }
        instance.release_if_draining(&mut self.inherited_listeners);
    }

    /// Asks a process to drain and detaches it from its instance. The token is cancelled when the
    /// process has closed its listeners.
    pub(super) fn drain(&mut self, name: InstanceName, mut process: Process) -> CancellationToken {
        process.request_drain();
        let (pid, released) = (process.pid, process.released.clone());
        let (has_released, events) = (released.clone(), self.sender());
        tokio::spawn(async move {
            if timeout(DRAIN_TIMEOUT, has_released.cancelled()).await.is_err() {
                let _ = events.send(Event::DrainOverdue(pid));
            }
        });
        self.draining.push(DrainingProcess { name, process });
        released
    }

    fn on_drain_overdue(&mut self, pid: u32) {
        let Some(drained) = self.draining.iter().find(|drained| drained.process.pid == pid) else {
            return;
        };
        warn!(instance = %drained.name, pid, "process does not drain, sending SIGTERM");
        drained.process.signal(Signal::SIGTERM);
        // The reload waits no longer for this process.
        drained.process.released.cancel();
    }
}
