//! The supervisor: one process for each line of a configuration file, from start to stop.
//!
//! Invariants: what happens to one instance touches no other; the listeners belong to the supervisor,
//! so that no client is refused while a process is exchanged for another, and are closed when an
//! instance does not come up, so that clients go elsewhere; a file with a mistake changes nothing that
//! runs; every order is carried out to its end before the next.

use std::{
    io,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use socket2::Socket;
use tokio::{
    select,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    check,
    conf::{Conf, Line, Name},
    exchange,
    inbox::{Inbox, Said},
    orders::Orders,
    plan::{Step, plan},
    process::{Leash, Process, Surroundings, describe},
};
use crate::{
    background::Detached,
    control::{
        instance::sweep,
        protocol::{Command, InstanceRow, InstanceState, Reply, Supervised},
        rundir::{Paths, RunDir, RunDirError},
    },
    error::StartError,
    handed::Handed,
    listener, notify, server,
    signals::{Signals, Wish},
    sys,
};

/// Between two looks at what is told to a service manager.
const TELL: Duration = Duration::from_secs(1);

/// Time that is asked for at each look while connections end.
const MORE: Duration = Duration::from_secs(10);

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

/// What a file with a mistake ends with: EX_CONFIG of sysexits(3).
pub(super) const WRONG: u8 = 78;

/// What is to come after the supervisor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing: the process ends with this code.
    Exit(u8),
    /// The same once more.
    Restart,
}

/// What the supervisor is told.
pub(super) enum Event {
    /// A process has ended.
    Ended(u32, io::Result<ExitStatus>),
    /// A process has said something.
    Said(u32, Said),
    /// Somebody asks for something on the control socket.
    Asked(Command, oneshot::Sender<Reply>),
}

/// Whether, and why, an instance has no process.
#[derive(Debug)]
enum Rest {
    /// It failed, and will be tried again.
    Until(Instant),
    /// It was ended by somebody else, in an orderly way.
    Stopped,
}

/// A line of the file that runs, or should.
struct Instance {
    line: Line,
    /// Empty if it has none at the moment.
    listeners: Vec<Socket>,
    /// They are the service manager's, and cannot be had again.
    is_handed: bool,
    process: Option<Process>,
    rest: Option<Rest>,
    /// Why it rests.
    why: String,
    /// The exit code that goes with it.
    code: u8,
    backoff: Backoff,
}

/// A process that drains, and belongs to no line any more.
struct Leaver {
    name: Name,
    process: Process,
}

/// The supervisor.
pub(super) struct Supervisor {
    settings: Settings,
    instances: Vec<Instance>,
    leavers: Vec<Leaver>,
    /// Lines that are wrong, as `FILE:LINE: WHY`.
    wrong: Vec<String>,
    handed: Handed,
    surroundings: Surroundings,
    events: UnboundedReceiver<Event>,
    began: u64,
    /// Held until all instances have been tried.
    detached: Option<Detached>,
    settled: bool,
    stopping: Option<After>,
    told: String,
}

impl Supervisor {
    /// A supervisor of what a file says, with the listeners of a service manager.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn new(
        settings: Settings,
        conf: Conf,
        handed: Handed,
        inbox: &Inbox,
        detached: Option<Detached>,
    ) -> io::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let inbox = inbox.path().to_owned();
        let surroundings = Surroundings { inbox, leash: Leash::new()?, events: sender };
        let wrong = conf.wrong(&settings.file);
        Ok(Self {
            settings,
            instances: conf.lines.into_iter().map(Instance::new).collect(),
            leavers: Vec::new(),
            wrong,
            handed,
            surroundings,
            events,
            began: sys::monotonic(),
            detached,
            settled: false,
            stopping: None,
            told: String::new(),
        })
    }

    /// Where events are sent to.
    pub(super) fn sender(&self) -> UnboundedSender<Event> {
        self.surroundings.events.clone()
    }

    /// Starts all instances, and supervises them until it is to stop and all have ended.
    ///
    /// # Errors
    /// When the terminal cannot be let go of.
    pub(super) async fn run(mut self, signals: &mut Signals) -> Result<After, StartError> {
        for wrong in &self.wrong {
            error!("{wrong}");
        }
        for i in 0..self.instances.len() {
            self.start(i).await;
        }
        loop {
            self.settle()?;
            if let Some(after) = self.stopping
                && self.processes().next().is_none()
            {
                return Ok(after);
            }
            let retry = self.next_try();
            select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => unreachable!("we have a sender ourselves"),
                },
                wish = signals.next() => self.wished(wish).await,
                () = sleep_until(retry.unwrap_or_else(Instant::now).into()), if retry.is_some() => {
                    self.try_again().await;
                }
                () = sleep(TELL), if notify::is_awaited() => {}
            }
            self.tell();
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(pid, status) => self.ended(pid, &status),
            Event::Said(pid, said) => self.said(pid, &said),
            Event::Asked(command, reply) => {
                let answer = self.asked(command).await;
                // Who asked may be gone.
                let _ = reply.send(answer);
            }
        }
    }

    async fn asked(&mut self, command: Command) -> Reply {
        match command {
            Command::Instances => Reply::Instances(self.table()),
            Command::Reload => match self.reload().await {
                Ok(changed) => Reply::Changed(changed),
                Err(wrong) => Reply::Wrong(wrong),
            },
            Command::Stop => self.told_to_stop(After::Exit(0)),
            Command::Restart => self.told_to_stop(After::Restart),
            _ => Reply::Refused("this is a supervisor and no instance".to_owned()),
        }
    }

    async fn wished(&mut self, wish: Wish) {
        match wish {
            Wish::Drain => self.stop(Signal::SIGTERM, After::Exit(0)),
            Wish::End => self.stop(Signal::SIGINT, After::Exit(0)),
            // What came of it is in the log.
            Wish::Reload => drop(self.reload().await),
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
        for instance in &mut self.instances {
            instance.listeners.clear();
            instance.rest = Some(Rest::Stopped);
        }
        self.processes().for_each(|process| process.signal(signal));
        self.tell();
    }

    /// Once all have been tried: says so to whoever waits for it.
    fn settle(&mut self) -> Result<(), StartError> {
        let is_settled = self.instances.iter().all(|instance| !instance.is_starting());
        if self.settled || !is_settled {
            return Ok(());
        }
        self.settled = true;
        let serving = self.serving();
        let all = self.instances.len() + self.wrong.len();
        info!(serving, of = all, file = %self.settings.file.display(), "supervising");
        let failed = self.instances.iter().find(|instance| instance.has_failed());
        let code = match failed {
            _ if !self.wrong.is_empty() => WRONG,
            Some(instance) => instance.code,
            None => 0,
        };
        if serving == 0 && code != 0 {
            // Nobody is helped by a supervisor of nothing; a service manager will try again.
            self.stop(Signal::SIGTERM, After::Exit(code));
            return Ok(());
        }
        if let Some(detached) = self.detached.take() {
            detached
                .serving(code)
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
        self.instances.iter().filter_map(|instance| instance.process.as_ref()).chain(leavers)
    }

    /// Tells a service manager how it is.
    fn tell(&mut self) {
        if !notify::is_awaited() {
            return;
        }
        let open = self.connections();
        if self.stopping.is_some() {
            notify::stopping(MORE);
        }
        let all = self.instances.len() + self.wrong.len();
        let text = match self.stopping {
            Some(_) => format!("stopping, {open} connections have yet to end"),
            None => format!("{} of {all} instances serve, {open} connections", self.serving()),
        };
        if text != self.told {
            notify::status(&text, usize::try_from(open).unwrap_or(usize::MAX));
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
            wrong: self.wrong.clone(),
            instances: rows.chain(leavers).collect(),
        }
    }

    /// When the next instance is to be tried again.
    fn next_try(&self) -> Option<Instant> {
        let until = |instance: &Instance| match instance.rest {
            Some(Rest::Until(until)) => Some(until),
            _ => None,
        };
        self.instances.iter().filter_map(until).min()
    }

    async fn try_again(&mut self) {
        let now = Instant::now();
        for i in 0..self.instances.len() {
            if matches!(self.instances[i].rest, Some(Rest::Until(until)) if until <= now) {
                self.start(i).await;
            }
        }
    }

    /// Starts the process of an instance, with the listeners that it has or with new ones.
    async fn start(&mut self, i: usize) {
        let started = self.try_start(i).await;
        let instance = &mut self.instances[i];
        match started {
            Ok(process) => {
                info!(instance = %instance.line.name, pid = process.pid, "started");
                instance.process = Some(process);
                instance.rest = None;
            }
            Err(why) => self.failed(i, &why.to_string(), why.exit_code(), None),
        }
    }

    async fn try_start(&mut self, i: usize) -> Result<Process, StartError> {
        let instance = &mut self.instances[i];
        if instance.listeners.is_empty() {
            let args = instance.line.args.clone();
            let port = instance.line.name.port;
            let look_up = spawn_blocking(move || server::listen_address(&args));
            let broken = |e: tokio::task::JoinError| StartError::System {
                act: "look an address up",
                source: e.into(),
            };
            let address = look_up.await.map_err(broken)??;
            instance.listeners = self.handed.take(listener::wanted(address, port));
            instance.is_handed = !instance.listeners.is_empty();
            if !instance.is_handed {
                let workers = server::workers(&instance.line.args);
                instance.listeners = listener::bind(address, port, workers)?;
            }
        }
        let orders = Orders {
            listeners: instance.listeners.len(),
            listened: instance.is_handed,
            background: self.settings.background,
            json: self.settings.json,
            run_dir: self.settings.dir.path().to_owned(),
        };
        let (line, listeners) = (&instance.line, &instance.listeners);
        Process::spawn(line, listeners, &orders, &self.surroundings)
            .map_err(|source| StartError::System { act: "start a process", source })
    }

    /// Says why an instance has no process any more, and when it gets another.
    fn failed(&mut self, i: usize, why: &str, code: u8, served: Option<Duration>) {
        let file = self.settings.file.display();
        let instance = &mut self.instances[i];
        let wait = instance.backoff.after(served);
        let why = format!("{file}:{}: {why}", instance.line.number);
        if self.detached.is_some() {
            super::complain(&why);
        }
        error!(instance = %instance.line.name, again_in = wait.as_secs(), "{why}");
        instance.process = None;
        instance.rest = Some(Rest::Until(Instant::now() + wait));
        (instance.why, instance.code) = (why, code);
        if served.is_none() && !instance.is_handed {
            instance.listeners.clear();
        }
    }

    fn ended(&mut self, pid: u32, status: &io::Result<ExitStatus>) {
        if let Some(i) = self.leavers.iter().position(|leaver| leaver.process.pid == pid) {
            let leaver = self.leavers.remove(i);
            info!(instance = %leaver.name, pid, "has left");
            return;
        }
        let is_it = |instance: &Instance| instance.process.as_ref().is_some_and(|p| p.pid == pid);
        let Some(i) = self.instances.iter().position(is_it) else { return };
        let instance = &mut self.instances[i];
        let Some(process) = instance.process.take() else { return };
        if let Ok(paths) = instance.paths(&self.settings.dir) {
            sweep(&paths);
        }
        let is_orderly = status.as_ref().is_ok_and(ExitStatus::success);
        if self.stopping.is_some() || is_orderly {
            info!(instance = %instance.line.name, pid, "has ended");
            instance.rest = Some(Rest::Stopped);
            instance.why = "it was told to end".to_owned();
            instance.listeners.clear();
            return;
        }
        let served = process.serving.map(|since| since.elapsed());
        let (described, code) = describe(status);
        // The last that one says which does not come up.
        let has_said = served.is_none() && !process.status.is_empty();
        let why = if has_said { process.status } else { described };
        self.failed(i, &why, code, served);
    }

    fn said(&mut self, pid: u32, said: &Said) {
        let is_it = |process: &&mut Process| process.pid == pid;
        let leaver = self.leavers.iter_mut().map(|leaver| &mut leaver.process).find(is_it);
        if let Some(process) = leaver {
            process.hear(said);
            return;
        }
        let is_it = |i: &&mut Instance| i.process.as_ref().is_some_and(|p| p.pid == pid);
        let Some(instance) = self.instances.iter_mut().find(is_it) else { return };
        let Some(process) = &mut instance.process else { return };
        process.hear(said);
        if process.is_draining {
            // By somebody else than us: who comes now is not to wait for nobody.
            instance.listeners.clear();
        }
    }

    /// Reads the file again, and makes what runs what it says. Changes nothing if the file has a
    /// mistake; returns what was changed.
    async fn reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        if self.stopping.is_some() {
            return Err(vec!["balance is stopping".to_owned()]);
        }
        notify::reloading();
        let result = self.read_again().await;
        match &result {
            Ok(changed) => info!(changed = changed.join("; "), "reloaded"),
            Err(wrong) => warn!(wrong = wrong.join("; "), "not reloaded"),
        }
        notify::ready();
        self.told.clear();
        self.tell();
        result
    }

    async fn read_again(&mut self) -> Result<Vec<String>, Vec<String>> {
        let file = self.settings.file.clone();
        let conf = check::read(&file).map_err(|e| vec![e.to_string()])?;
        if !conf.mistakes.is_empty() {
            return Err(conf.wrong(&file));
        }
        let plan = plan(self.instances.iter().map(|instance| &instance.line), conf.lines);
        let changed = plan.steps.iter().filter(|(_, step)| *step != Step::Keep);
        let lines: Vec<Line> = changed.map(|(line, _)| line.clone()).collect();
        let names = spawn_blocking(move || check::names(&lines, &file)).await;
        let unresolved = names.map_err(|e| vec![e.to_string()])?;
        if !unresolved.is_empty() {
            return Err(unresolved);
        }
        self.wrong.clear();
        let mut done = Vec::new();
        for name in plan.leave {
            self.leave(&name).await;
            done.push(format!("{name}: stopped"));
        }
        let mut failed = Vec::new();
        let mut order = Vec::new();
        for (line, step) in plan.steps {
            let name = line.name.clone();
            match self.take(line, step).await {
                Ok(None) => {}
                Ok(Some(what)) => done.push(format!("{name}: {what}")),
                Err(why) => failed.push(why),
            }
            order.push(name);
        }
        let place = |instance: &Instance| order.iter().position(|name| *name == instance.line.name);
        self.instances.sort_by_key(place);
        self.wait_for_all().await;
        failed.extend(self.instances.iter().filter(|i| i.has_failed()).map(|i| i.why.clone()));
        if failed.is_empty() { Ok(done) } else { Err(failed) }
    }

    /// Makes one instance what its line says; what was done, if anything was.
    async fn take(&mut self, line: Line, step: Step) -> Result<Option<&'static str>, String> {
        let position = self.instances.iter().position(|i| i.line.name == line.name);
        let Some(i) = position else {
            self.instances.push(Instance::new(line));
            self.start(self.instances.len() - 1).await;
            return Ok(Some("started"));
        };
        let runs = self.instances[i].state() == InstanceState::Running;
        let step = if runs { step } else { Step::Replace };
        match step {
            Step::Keep => {
                self.instances[i].line.number = line.number;
                return Ok(None);
            }
            Step::Configure => {
                let paths = self.instances[i].paths(&self.settings.dir);
                let command = Command::Configure { words: line.words.clone() };
                let wrong =
                    |why| format!("{}:{}: {why}", self.settings.file.display(), line.number);
                match exchange::ask(paths, command).await.map_err(wrong)? {
                    Reply::Done | Reply::Already => {
                        self.instances[i].line = line;
                        return Ok(Some("changed"));
                    }
                    Reply::InvalidAddress(why) | Reply::Refused(why) => return Err(wrong(why)),
                    // It takes another process.
                    _ => {}
                }
            }
            Step::Start | Step::Replace => {}
        }
        self.drain(i).await;
        let instance = &mut self.instances[i];
        instance.backoff = Backoff::default();
        instance.line = line;
        self.start(i).await;
        Ok(Some(if runs { "replaced" } else { "started" }))
    }

    /// Has the process of an instance end when its connections have ended. It accepts no more, and its
    /// names are free, when this returns.
    async fn drain(&mut self, i: usize) {
        let dir = &self.settings.dir;
        let instance = &mut self.instances[i];
        let Some(process) = instance.process.take() else { return };
        if !exchange::kill(instance.paths(dir)).await {
            process.signal(Signal::SIGTERM);
        }
        let name = instance.line.name.clone();
        self.leavers.push(Leaver { name, process });
    }

    async fn leave(&mut self, name: &Name) {
        if let Some(i) = self.instances.iter().position(|i| i.line.name == *name) {
            self.drain(i).await;
            self.instances.remove(i);
        }
    }

    /// Waits until no instance is starting any more.
    async fn wait_for_all(&mut self) {
        // What else is asked meanwhile is asked again when this is over.
        let mut later = Vec::new();
        while self.instances.iter().any(Instance::is_starting) {
            match self.events.recv().await {
                Some(event @ Event::Asked(..)) => later.push(event),
                Some(Event::Ended(pid, status)) => self.ended(pid, &status),
                Some(Event::Said(pid, said)) => self.said(pid, &said),
                None => unreachable!("we have a sender ourselves"),
            }
        }
        for event in later {
            let _ = self.surroundings.events.send(event);
        }
    }
}

impl Instance {
    fn new(line: Line) -> Self {
        Self {
            line,
            listeners: Vec::new(),
            is_handed: false,
            process: None,
            rest: None,
            why: String::new(),
            code: 0,
            backoff: Backoff::default(),
        }
    }

    fn state(&self) -> InstanceState {
        match (&self.process, &self.rest) {
            (Some(process), _) if process.is_draining => InstanceState::Draining,
            (Some(process), Some(Rest::Stopped)) if process.serving.is_some() => {
                InstanceState::Draining
            }
            (Some(process), _) if process.serving.is_some() => InstanceState::Running,
            (Some(_), _) | (None, None) => InstanceState::Starting,
            (None, Some(Rest::Until(_))) => InstanceState::Failed,
            (None, Some(Rest::Stopped)) => InstanceState::Stopped,
        }
    }

    fn is_starting(&self) -> bool {
        self.state() == InstanceState::Starting
    }

    fn has_failed(&self) -> bool {
        self.state() == InstanceState::Failed
    }

    fn paths(&self, dir: &RunDir) -> Result<Paths, RunDirError> {
        let Line { name, args, .. } = &self.line;
        let own = args.run_dir.as_deref().map(|path| RunDir::locate(Some(path))).transpose()?;
        own.as_ref().unwrap_or(dir).instance(name.bind.as_deref(), name.port)
    }

    fn row(&self, dir: &RunDir) -> InstanceRow {
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
