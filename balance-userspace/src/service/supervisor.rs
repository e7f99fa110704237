//! The supervisor: one process for each line of a configuration file, from start to stop.
//!
//! Invariants: what happens to one instance touches no other; the listeners belong to the supervisor,
//! so that no client is refused while a process is exchanged for another, and are closed when an
//! instance does not come up, so that clients go elsewhere; a file with a mistake changes nothing that
//! runs; every order is carried out to its end before the next.

use std::{
    collections::{HashMap, VecDeque},
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
    counted, exchange,
    inbox::{Inbox, Said},
    orders::Orders,
    plan::{Plan, Step, plan},
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

/// What a file with a mistake ends with: EX_CONFIG of sysexits(3).
pub(super) const WRONG: u8 = 78;

/// What goes with a name that does not resolve: EX_DATAERR of sysexits(3).
const UNRESOLVED: u8 = 65;

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
    /// A file that is to be loaded again has been looked at: its lines, or what is wrong.
    Checked(Result<Vec<Line>, Vec<String>>),
    /// Processes have been told what the file asks of them: by instance, what came of it.
    Told(Plan, HashMap<Name, Result<Reply, String>>),
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
    /// We have told the process to leave, so that another one takes its place, or none.
    is_told: bool,
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
    /// The reload that is under way.
    reload: Option<Reload>,
    /// Those that are to come after it.
    later: VecDeque<Option<oneshot::Sender<Reply>>>,
    told: String,
}

/// A reload, from the file to the last instance that it starts.
struct Reload {
    /// Who has asked for it; nobody if it was a signal.
    reply: Option<oneshot::Sender<Reply>>,
    changed: Vec<String>,
    failed: Vec<String>,
    /// The exit code that goes with what failed.
    code: u8,
    /// Instances that it has started; nothing before that.
    started: Option<Vec<Name>>,
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
            reload: None,
            later: VecDeque::new(),
            told: String::new(),
        })
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
    ) -> Result<(After, Handed), StartError> {
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
                wish = signals.next() => self.wished(wish),
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
            After::Exit(0) if self.detached.is_some() => After::Exit(STOPPED_EARLY),
            after => after,
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(pid, status) => self.ended(pid, &status),
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

    fn wished(&mut self, wish: Wish) {
        match wish {
            Wish::Drain => self.stop(Signal::SIGTERM, After::Exit(0)),
            Wish::End => self.stop(Signal::SIGINT, After::Exit(0)),
            Wish::Reload => self.begin_reload(None),
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
        if served.is_none() {
            // Clients are to go elsewhere.
            instance.let_go(&mut self.handed);
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
        if instance.is_told {
            info!(instance = %instance.line.name, pid, "has left");
            return;
        }
        let is_orderly = status.as_ref().is_ok_and(ExitStatus::success);
        if self.stopping.is_some() || is_orderly {
            info!(instance = %instance.line.name, pid, "has ended");
            instance.rest = Some(Rest::Stopped);
            instance.why = "it was told to end".to_owned();
            instance.let_go(&mut self.handed);
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
        if process.is_draining && !instance.is_told {
            // By somebody else than us: who comes now is not to wait for nobody.
            instance.let_go(&mut self.handed);
        }
    }

    /// Begins to load the file again, when the reload before has come to its end. Nothing here waits: what
    /// takes time comes back as an event.
    fn begin_reload(&mut self, reply: Option<oneshot::Sender<Reply>>) {
        if self.reload.is_some() {
            self.later.push_back(reply);
            return;
        }
        notify::reloading();
        let (changed, failed) = (Vec::new(), Vec::new());
        self.reload = Some(Reload { reply, changed, failed, code: 0, started: None });
        if self.stopping.is_some() {
            self.end_reload(Reply::Refused("balance is stopping".to_owned()));
            return;
        }
        let file = self.settings.file.clone();
        let conf = match check::read(&file) {
            Ok(conf) if conf.mistakes.is_empty() => conf,
            Ok(conf) => return self.end_reload(Reply::Wrong(conf.wrong(&file))),
            Err(error) => return self.end_reload(Reply::Wrong(vec![error.to_string()])),
        };
        let plan = self.plan(conf.lines.clone());
        let changed = plan.steps.into_iter().filter(|(_, step)| *step != Step::Keep);
        let changed: Vec<Line> = changed.map(|(line, _)| line).collect();
        let events = self.sender();
        tokio::spawn(async move {
            let wrong = check::all_names(changed, file).await;
            let checked = if wrong.is_empty() { Ok(conf.lines) } else { Err(wrong) };
            let _ = events.send(Event::Checked(checked));
        });
    }

    /// What these lines ask for. Who does not run is started anew, whatever has changed.
    fn plan(&self, lines: Vec<Line>) -> Plan {
        let mut plan = plan(self.instances.iter().map(|instance| &instance.line), lines);
        for (line, step) in &mut plan.steps {
            let instance = self.instances.iter().find(|instance| instance.line.name == line.name);
            if instance.is_some_and(|instance| instance.state() != InstanceState::Running) {
                *step = Step::Replace;
            }
        }
        plan
    }

    /// Tells processes that run what is asked of them: to take other arguments, or to leave.
    fn tell_processes(&mut self, lines: Vec<Line>) {
        if self.stopping.is_some() {
            self.end_reload(Reply::Refused("balance is stopping".to_owned()));
            return;
        }
        let plan = self.plan(lines);
        let mut commands = Vec::new();
        for instance in self.instances.iter_mut().filter(|instance| instance.process.is_some()) {
            let Line { name, .. } = &instance.line;
            let step = plan.steps.iter().find(|(line, _)| line.name == *name);
            let words = match step {
                Some((_, Step::Keep)) => continue,
                Some((line, Step::Configure)) => Some(line.words.clone()),
                Some(_) | None => None,
            };
            instance.is_told = words.is_none();
            commands.push((name.clone(), instance.paths(&self.settings.dir), words));
        }
        let events = self.sender();
        tokio::spawn(async move {
            let replies = exchange::all(commands).await;
            let _ = events.send(Event::Told(plan, replies));
        });
    }

    /// Does what is left to do when the processes have been told: processes that leave are let go of, and
    /// others are started.
    async fn carry_out(&mut self, plan: Plan, replies: HashMap<Name, Result<Reply, String>>) {
        if self.stopping.is_some() {
            self.end_reload(Reply::Refused("balance is stopping".to_owned()));
            return;
        }
        self.wrong.clear();
        let (mut changed, mut failed, mut started) = (Vec::new(), Vec::new(), Vec::new());
        for name in plan.leave {
            if let Some(i) = self.instances.iter().position(|i| i.line.name == name) {
                self.let_leave(i, replies.get(&name));
                self.instances[i].let_go(&mut self.handed);
                self.instances.remove(i);
            }
            changed.push(format!("{name}: stopped"));
        }
        let mut order = Vec::new();
        for (line, step) in plan.steps {
            let name = line.name.clone();
            order.push(name.clone());
            let Some(i) = self.instances.iter().position(|i| i.line.name == name) else {
                self.instances.push(Instance::new(line));
                self.start(self.instances.len() - 1).await;
                changed.push(format!("{name}: started"));
                started.push(name);
                continue;
            };
            let reply = replies.get(&name);
            match (step, reply) {
                (Step::Keep, _) => {
                    self.instances[i].line.number = line.number;
                    continue;
                }
                (Step::Configure, Some(Ok(Reply::Done | Reply::Already))) => {
                    self.instances[i].line = line;
                    changed.push(format!("{name}: changed"));
                    continue;
                }
                (Step::Configure, Some(Ok(Reply::InvalidAddress(why)) | Err(why))) => {
                    let file = self.settings.file.display();
                    failed.push(format!("{file}:{}: {why}", line.number));
                    continue;
                }
                (Step::Configure, Some(Ok(_))) => {
                    // It takes another process after all.
                    let paths = self.instances[i].paths(&self.settings.dir);
                    let told = exchange::kill(paths).await;
                    self.let_leave(i, Some(&told));
                }
                (Step::Configure | Step::Replace | Step::Start, reply) => self.let_leave(i, reply),
            }
            let instance = &mut self.instances[i];
            let ran = instance.rest.is_none();
            instance.backoff = Backoff::default();
            instance.line = line;
            self.start(i).await;
            changed.push(format!("{name}: {}", if ran { "replaced" } else { "started" }));
            started.push(name);
        }
        let place = |instance: &Instance| order.iter().position(|name| *name == instance.line.name);
        self.instances.sort_by_key(place);
        if let Some(reload) = &mut self.reload {
            reload.code = if failed.is_empty() { 0 } else { UNRESOLVED };
            (reload.changed, reload.failed, reload.started) = (changed, failed, Some(started));
        }
    }

    /// The process of an instance has been told to accept no more: it belongs to no line any more, and
    /// ends with its connections.
    fn let_leave(&mut self, i: usize, told: Option<&Result<Reply, String>>) {
        let instance = &mut self.instances[i];
        instance.is_told = false;
        let Some(process) = instance.process.take() else { return };
        if !matches!(told, Some(Ok(Reply::Done))) {
            process.signal(Signal::SIGTERM);
        }
        let name = instance.line.name.clone();
        self.leavers.push(Leaver { name, process });
    }

    /// Ends a reload when all that it has started serve, or have failed.
    fn finish_reload(&mut self) {
        let Some(Reload { started: Some(started), .. }) = &self.reload else { return };
        let of_it = |instance: &&Instance| started.contains(&instance.line.name);
        let mut of_it = self.instances.iter().filter(of_it);
        if self.stopping.is_none() && of_it.clone().any(Instance::is_starting) {
            return;
        }
        let failures: Vec<_> =
            of_it.clone().filter(|i| i.has_failed()).map(|i| i.why.clone()).collect();
        let code = of_it.find(|i| i.has_failed()).map_or(0, |instance| instance.code);
        let Some(reload) = &mut self.reload else { return };
        reload.failed.extend(failures);
        let (changed, failed) =
            (std::mem::take(&mut reload.changed), std::mem::take(&mut reload.failed));
        let code = if reload.code == 0 { code } else { reload.code };
        self.end_reload(match failed.is_empty() {
            true => Reply::Changed(changed),
            false => Reply::Partly { changed, failed, code },
        });
    }

    fn end_reload(&mut self, reply: Reply) {
        match &reply {
            Reply::Changed(changed) => info!(changed = changed.join("; "), "reloaded"),
            Reply::Partly { changed, failed, .. } => {
                warn!(changed = changed.join("; "), failed = failed.join("; "), "reloaded in part");
            }
            Reply::Wrong(wrong) => warn!(wrong = wrong.join("; "), "not reloaded"),
            _ => warn!("not reloaded"),
        }
        if self.settled {
            notify::ready();
        }
        self.told.clear();
        if let Some(Reload { reply: Some(asker), .. }) = self.reload.take() {
            // Who asked may be gone.
            let _ = asker.send(reply);
        }
        if let Some(next) = self.later.pop_front() {
            self.begin_reload(next);
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
            is_told: false,
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

    /// Closes its listeners, or gives them back to where they came from.
    fn let_go(&mut self, handed: &mut Handed) {
        if self.is_handed {
            handed.give_back(&mut self.listeners);
        }
        self.listeners.clear();
        self.is_handed = false;
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
