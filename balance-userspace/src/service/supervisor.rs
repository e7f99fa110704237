//! The supervisor: one process for each line of a configuration file, from start to stop.
//!
//! Invariants: what happens to one instance touches no other; the listeners and the names of an instance belong to
//! the supervisor, so that no client is refused while a process is exchanged for another, and are given up when an
//! instance does not come up, so that clients go elsewhere; a process that serves is told to leave for another only
//! when that one serves; a file with a mistake changes nothing that runs; every order is carried out to its end
//! before the next.

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
    conf::{Conf, Line, Name},
    event::Event,
    member::{Instance, Rest},
    notify_socket::{Inbox, Said},
    output::{WRONG, complain, counted},
    process::{Process, Surroundings, last_words},
    reload::Reload,
    spawn_config::Orders,
};
use crate::{
    control::{
        instance_files::Names,
        protocol::{Command, InstanceRow, InstanceState, Reply, Supervised},
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

/// Between two looks at what is told to a service manager.
const TELL: Duration = Duration::from_secs(1);

/// What a supervisor in the background ends with that was told to stop before all had been tried:
/// EX_UNAVAILABLE of sysexits(3).
const STOPPED_EARLY: u8 = 69;

/// What a supervisor was started with.
pub(super) struct Settings {
    /// The configuration file, by its absolute path.
    pub(super) file: PathBuf,
    /// Where control sockets are.
    pub(super) dir: RunDir,
    /// The log goes to syslog, and the terminal is let go of.
    pub(super) background: bool,
    /// The log in the foreground is JSON.
    pub(super) json: bool,
}

/// What is to come after the supervisor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing: the process ends with this code.
    Exit(u8),
    /// The same once more.
    Restart,
}

/// A process that drains, and belongs to no line any more.
pub(super) struct Leaver {
    name: Name,
    pub(super) process: Process,
}

/// How long a process may take to stop accepting.
const LEAVE: Duration = Duration::from_secs(5);

/// The supervisor.
pub(super) struct Supervisor {
    pub(super) settings: Settings,
    pub(super) instances: Vec<Instance>,
    pub(super) leavers: Vec<Leaver>,
    /// Lines that are wrong, as `FILE:LINE: WHY`.
    pub(super) wrong: Vec<String>,
    pub(super) handed: InheritedListeners,
    surroundings: Surroundings,
    events: UnboundedReceiver<Event>,
    began: u64,
    /// Held until all instances have been tried.
    ready_notifier: Option<ReadyNotifier>,
    pub(super) settled: bool,
    pub(super) stopping: Option<After>,
    /// The reload that is under way.
    pub(super) reload: Option<Reload>,
    /// Those that are to come after it.
    pub(super) later: VecDeque<Option<oneshot::Sender<Reply>>>,
    pub(super) told: String,
}

impl Supervisor {
    /// A supervisor of what a file says, with the listeners of a service manager.
    pub(super) fn new(
        settings: Settings,
        conf: Conf,
        handed: InheritedListeners,
        inbox: &Inbox,
        ready_notifier: Option<ReadyNotifier>,
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let inbox = inbox.path().to_owned();
        let surroundings = Surroundings { inbox, events: sender };
        let wrong = conf.wrong(&settings.file);
        Self {
            settings,
            instances: conf.lines.into_iter().map(Instance::new).collect(),
            leavers: Vec::new(),
            wrong,
            handed,
            surroundings,
            events,
            began: sys::monotonic(),
            ready_notifier,
            settled: false,
            stopping: None,
            reload: None,
            later: VecDeque::new(),
            told: String::new(),
        }
    }

    /// Where events are sent to.
    pub(super) fn sender(&self) -> UnboundedSender<Event> {
        self.surroundings.events.clone()
    }

    /// Starts all instances, and supervises them until it is to stop and all have ended; returns the
    /// service manager's listeners as well.
    ///
    /// # Errors
    /// When the terminal cannot be let go of.
    pub(super) async fn run(
        mut self,
        signals: &mut Signals,
    ) -> Result<(After, InheritedListeners), StartError> {
        for wrong in &self.wrong {
            error!("{wrong}");
        }
        for i in 0..self.instances.len() {
            self.start(i).await;
        }
        loop {
            self.settle()?;
            self.finish_reload();
            if let Some(after) = self.stopping
                && self.processes().next().is_none()
            {
                return Ok((self.early(after), self.handed));
            }
            self.tell();
            let retry = self.next_try();
            select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => unreachable!("we have a sender ourselves"),
                },
                action = signals.next() => self.signalled(action),
                () = sleep_until(retry.unwrap_or_else(Instant::now).into()), if retry.is_some() => {
                    self.try_again().await;
                }
                () = sleep(TELL), if notify::is_awaited() => {}
            }
        }
    }

    /// Whoever waits for the start is not to take an early end for one.
    fn early(&self, after: After) -> After {
        match after {
            After::Exit(0) if self.ready_notifier.is_some() => After::Exit(STOPPED_EARLY),
            after => after,
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(pid, status) => self.ended(pid, &status),
            Event::Overdue(pid) => self.overdue(pid),
            Event::Said(pid, said) => self.said(pid, &said),
            Event::Asked(command, reply) => self.asked(command, reply),
            Event::Checked(Ok(lines)) => self.tell_processes(lines),
            Event::Checked(Err(wrong)) => self.end_reload(Reply::Wrong(wrong)),
            Event::Told(plan, replies) => self.carry_out(plan, replies).await,
        }
    }

    fn asked(&mut self, command: Command, reply: oneshot::Sender<Reply>) {
        let answer = match command {
            Command::Instances => Reply::Instances(self.table()),
            Command::Reload => return self.begin_reload(Some(reply)),
            Command::Stop => self.told_to_stop(After::Exit(0)),
            Command::Restart => self.told_to_stop(After::Restart),
            _ => Reply::Refused("this is a supervisor and no instance".to_owned()),
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    fn signalled(&mut self, action: SignalAction) {
        match action {
            SignalAction::Drain => self.stop(Signal::SIGTERM, After::Exit(0)),
            SignalAction::End => self.stop(Signal::SIGINT, After::Exit(0)),
            SignalAction::Reload => self.begin_reload(None),
        }
    }

    /// By a command: asking twice does not cut connections, as a second signal does.
    fn told_to_stop(&mut self, after: After) -> Reply {
        if self.stopping.is_none() {
            self.stop(Signal::SIGTERM, after);
            return Reply::Done;
        }
        self.stopping = Some(after);
        Reply::Already
    }

    fn stop(&mut self, signal: Signal, after: After) {
        info!(open = self.connections(), "stopping");
        self.stopping = Some(after);
        if after == After::Restart {
            // To a service manager it stays what it is.
            notify::reloading();
        }
        for instance in &mut self.instances {
            instance.let_go(&mut self.handed);
            instance.rest = Some(Rest::Stopped);
        }
        self.processes().for_each(|process| process.signal(signal));
    }

    /// Once all have been tried: says so to whoever waits for it.
    fn settle(&mut self) -> Result<(), StartError> {
        let is_settled = self.instances.iter().all(|instance| !instance.is_starting());
        if self.settled || !is_settled || self.stopping.is_some() {
            return Ok(());
        }
        self.settled = true;
        let serving = self.serving();
        let all = self.instances.len() + self.wrong.len();
        info!(serving, of = all, file = %self.settings.file.display(), "supervising");
        let failed = self.instances.iter().find(|instance| instance.has_failed());
        let failed = failed.map(|instance| instance.code);
        if serving == 0 && all > 0 {
            // Nobody is helped by a supervisor of nothing. A service manager tries again, unless
            // all that is wrong is the file.
            self.stop(Signal::SIGTERM, After::Exit(failed.unwrap_or(WRONG)));
            return Ok(());
        }
        let code = if self.wrong.is_empty() { failed.unwrap_or(0) } else { WRONG };
        let left = self.handed.left();
        if !left.is_empty() {
            warn!(sockets = left.join(" "), "nobody wants these sockets of the service manager");
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
        let leavers = self.leavers.iter().map(|leaver| &leaver.process);
        self.instances.iter().flat_map(Instance::processes).chain(leavers)
    }

    /// Tells a service manager how it is.
    fn tell(&mut self) {
        if !notify::is_awaited() {
            return;
        }
        let open = usize::try_from(self.connections()).unwrap_or(usize::MAX);
        match self.stopping {
            Some(After::Exit(_)) => notify::stopping(),
            None if self.settled => {}
            _ => notify::starting(),
        }
        let all = self.instances.len() + self.wrong.len();
        let text = match self.stopping {
            Some(_) => notify::draining(open),
            None => {
                let serving = self.serving();
                format!("{serving} of {all} instances serve, {}", counted(open, "connection"))
            }
        };
        if text != self.told {
            notify::status(&text, open);
            self.told = text;
        }
    }

    fn table(&self) -> Supervised {
        let dir = &self.settings.dir;
        let rows = self.instances.iter().map(|instance| instance.row(dir));
        let leavers = self.leavers.iter().map(|leaver| InstanceRow {
            name: leaver.name.to_string(),
            state: InstanceState::Draining,
            pid: Some(leaver.process.pid),
            socket: None,
            connections: leaver.process.connections,
            status: leaver.process.status.clone(),
        });
        Supervised {
            foreground: !self.settings.background,
            began: self.began,
            settled: self.settled,
            stopping: self.stopping.is_some(),
            wrong: self.wrong.clone(),
            instances: rows.chain(leavers).collect(),
        }
    }

    /// When the next instance is to be tried again.
    fn next_try(&self) -> Option<Instant> {
        self.instances.iter().filter_map(Instance::next_try).min()
    }

    async fn try_again(&mut self) {
        let now = Instant::now();
        for i in 0..self.instances.len() {
            if self.instances[i].next_try().is_some_and(|until| until <= now) {
                self.start(i).await;
            }
        }
    }

    /// Starts the process of an instance, with the listeners that it has or with new ones.
    pub(super) async fn start(&mut self, i: usize) {
        let line = self.instances[i].line.clone();
        let started = self.spawn(i, &line).await;
        let instance = &mut self.instances[i];
        match started {
            Ok((process, names)) => {
                info!(instance = %instance.line.name, pid = process.pid, "started");
                instance.process = Some(process);
                instance.names = names.or(instance.names.take());
                instance.rest = None;
            }
            Err(why) => self.failed(i, &why.to_string(), why.exit_code(), None),
        }
    }

    /// A process for an instance with the arguments of a line, which may be another than its own, and the names that
    /// the instance needs for it, unless it has them. Nothing leads to its control socket yet.
    pub(super) async fn spawn(
        &mut self,
        i: usize,
        line: &Line,
    ) -> Result<(Process, Option<Names>), StartError> {
        let instance = &mut self.instances[i];
        let (args, is_bound) = (line.args.clone(), !instance.listeners.is_empty());
        let look_up = spawn_blocking(move || {
            let user = args.user.as_deref().map(privileges::find).transpose()?;
            // What is bound may have another address by now.
            let address = if is_bound { None } else { server::listen_address(&args)? };
            Ok::<_, StartError>((address, user))
        });
        let broken = |e: tokio::task::JoinError| StartError::System {
            act: "look an address up",
            source: e.into(),
        };
        let (address, user) = look_up.await.map_err(broken)??;
        if !is_bound {
            let port = line.name.port;
            instance.listeners = self.handed.take(listener::wanted(address, port));
            instance.is_handed = !instance.listeners.is_empty();
            if !instance.is_handed {
                instance.listeners = listener::bind(address, port, server::workers(&line.args))?;
            }
        }
        let owner = user.map(|user| (user.uid, user.gid));
        let control = instance.control_socket(&self.settings.dir, line, owner);
        let (control, names) = control?;
        let orders = Orders {
            listeners: instance.listeners.len(),
            listened: instance.is_handed,
            background: self.settings.background,
            json: self.settings.json,
        };
        let process =
            Process::spawn(line, &instance.listeners, control, &orders, &self.surroundings)
                .map_err(|source| StartError::System { act: "start a process", source })?;
        Ok((process, names))
    }

    /// Says why an instance has no process any more, and when it gets another.
    fn failed(&mut self, i: usize, why: &str, code: u8, served: Option<Duration>) {
        let file = self.settings.file.display();
        let instance = &mut self.instances[i];
        let wait = instance.backoff.after(served);
        let why = format!("{file}:{}: {why}", instance.line.number);
        if self.ready_notifier.is_some() {
            complain(&why);
        }
        error!(instance = %instance.line.name, again_in = wait.as_secs(), "{why}");
        instance.process = None;
        instance.rest = Some(Rest::Until(Instant::now() + wait));
        (instance.why, instance.code) = (why, code);
        match &instance.names {
            // They are for the successor.
            _ if instance.successor.is_some() => {}
            Some(names) if served.is_some() => names.clear(),
            // Clients are to go elsewhere.
            _ => instance.give_up(&mut self.handed),
        }
    }

    fn ended(&mut self, pid: u32, status: &io::Result<ExitStatus>) {
        if let Some(i) = self.leavers.iter().position(|leaver| leaver.process.pid == pid) {
            let leaver = self.leavers.remove(i);
            leaver.process.released.cancel();
            info!(instance = %leaver.name, pid, "has left");
            return;
        }
        let is_successor = |instance: &Instance| {
            instance.successor.as_ref().is_some_and(|next| next.process.pid == pid)
        };
        if let Some(i) = self.instances.iter().position(is_successor) {
            self.successor_ended(i, status);
            return;
        }
        let is_it = |instance: &Instance| instance.process.as_ref().is_some_and(|p| p.pid == pid);
        let Some(i) = self.instances.iter().position(is_it) else { return };
        let instance = &mut self.instances[i];
        let Some(process) = instance.process.take() else { return };
        process.released.cancel();
        let is_orderly = status.as_ref().is_ok_and(ExitStatus::success);
        if self.stopping.is_some() || is_orderly {
            info!(instance = %instance.line.name, pid, "has ended");
            instance.rest = Some(Rest::Stopped);
            instance.why = "it was told to end".to_owned();
            instance.give_up_unless_taken_over(&mut self.handed);
            return;
        }
        let served = process.serving.map(|since| since.elapsed());
        let (why, code) = last_words(process, status);
        self.failed(i, &why, code, served);
    }

    fn said(&mut self, pid: u32, said: &Said) {
        let is_it = |process: &&mut Process| process.pid == pid;
        let leaver = self.leavers.iter_mut().map(|leaver| &mut leaver.process).find(is_it);
        if let Some(process) = leaver {
            process.hear(said);
            return;
        }
        let of = |instance: &Instance| instance.processes().any(|process| process.pid == pid);
        let Some(i) = self.instances.iter().position(of) else { return };
        let instance = &mut self.instances[i];
        if let Some(next) = instance.successor.as_mut().filter(|next| next.process.pid == pid) {
            next.process.hear(said);
            if next.process.serving.is_some() && self.stopping.is_none() {
                self.take_over(i);
            }
            return;
        }
        let Some(process) = &mut instance.process else { return };
        let served = process.serving.is_some();
        process.hear(said);
        if !served && process.serving.is_some() {
            instance.publish();
        }
        instance.heed_drain(&mut self.handed);
    }

    /// Tells a process to accept no more. It belongs to no line any more, and ends with its connections.
    pub(super) fn retire(&mut self, name: Name, mut process: Process) -> CancellationToken {
        process.leave();
        let (pid, released) = (process.pid, process.released.clone());
        let (has_left, events) = (released.clone(), self.sender());
        tokio::spawn(async move {
            if timeout(LEAVE, has_left.cancelled()).await.is_err() {
                let _ = events.send(Event::Overdue(pid));
            }
        });
        self.leavers.push(Leaver { name, process });
        released
    }

    fn overdue(&mut self, pid: u32) {
        let Some(leaver) = self.leavers.iter().find(|leaver| leaver.process.pid == pid) else {
            return;
        };
        warn!(instance = %leaver.name, pid, "does not leave");
        leaver.process.signal(Signal::SIGTERM);
        // Nothing waits for it any more.
        leaver.process.released.cancel();
    }
}
