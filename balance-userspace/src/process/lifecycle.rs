//! The main thread while workers serve: signals, requests of the supervisor, events of the BPF
//! programs, and the orderly shutdown.
//!
//! Invariant: a failure of one of these duties does not end the process. Only a signal, the end of
//! its last instance or the supervisor does.

use std::{
    future::Future, io, os::fd::OwnedFd, pin::pin, sync::Arc, thread::JoinHandle, time::Duration,
};

use tokio::{
    runtime::Runtime,
    select,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::sleep,
};
use tracing::{error, info, warn};

use super::{
    instances::{InstanceEvent, Instances},
    protocol::{Configured, Event, InstanceLine, Request, SpawnConfig},
    requests::{self, Prepared},
    status::Status,
    supervision::{self, Receiver, Supervision},
    takeover::{SupervisorSocket, Takeover},
};
use crate::{
    error::StartError,
    instance::{context::Context, timer::sleep_for},
    sys::signals::{SignalAction, Signals},
};

/// Exit code of an instance without descriptors: EX_OSERR of sysexits(3).
const NO_DESCRIPTOR: u8 = 71;

/// Threads that resolve names at the same time.
const LOOK_UPS: usize = 16;

/// The runtime of the main thread.
pub(crate) struct Lifecycle {
    runtime: Runtime,
    signals: Signals,
}

impl Lifecycle {
    /// Catches the signals.
    pub(crate) fn new() -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "catch signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let guard = runtime.enter();
        let signals = Signals::catch().map_err(refused)?;
        drop(guard);
        Ok(Self { runtime, signals })
    }

    /// Runs a step of the start.
    pub(crate) fn block_on<T>(&self, step: impl Future<Output = T>) -> T {
        self.runtime.block_on(step)
    }

    /// Serves until a signal, or until the last instance has ended. After SIGTERM the wait for
    /// connections is limited to the longest grace time. A second signal, or SIGINT, aborts the
    /// connections at once.
    pub(crate) fn run(
        self,
        instances: Instances,
        threads: Vec<JoinHandle<()>>,
        supervision: Option<(Supervision, SpawnConfig)>,
    ) {
        let Self { runtime, mut signals } = self;
        runtime.block_on(async {
            let datapath = instances.shared.datapath.clone();
            let (supervision, config) = supervision.unzip();
            let (receiver, sender) = match supervision.map(Supervision::split).transpose() {
                Ok(halves) => halves.unzip(),
                Err(error) => return error!(%error, "cannot use the socket to the supervisor"),
            };
            let (sender_of_completed, completed) = unbounded_channel();
            let mut process = Process {
                look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
                completed,
                sender_of_completed,
                instances,
                supervisor: receiver,
                takeover: Takeover::new(config),
                status: Status::new(sender),
                is_stopping: false,
            };
            let serve = async {
                process.serve(&mut signals).await;
                let joined = tokio::task::spawn_blocking(move || {
                    for thread in threads {
                        let _ = thread.join();
                    }
                });
                let _ = joined.await;
                process.status.send_all(&process.instances);
                process.status.flush().await;
            };
            select! { never = datapath.handle_events() => match never {}, () = serve => {} }
        });
    }
}

/// The result of a task that carries out a request.
enum Completed {
    /// The instance with this number can be served now.
    Prepared(u64, Box<Result<Prepared, StartError>>),
    /// The instance with this number has these arguments, or not.
    Configured(u64, InstanceLine, Configured),
}

/// A process that serves.
struct Process {
    instances: Instances,
    /// Permits for threads that resolve names.
    look_ups: Arc<Semaphore>,
    /// The results of tasks.
    completed: UnboundedReceiver<Completed>,
    sender_of_completed: UnboundedSender<Completed>,
    supervisor: Option<Receiver>,
    takeover: Takeover,
    status: Status,
    /// No instance accepts any more.
    is_stopping: bool,
}

impl Process {
    /// Serves until the last session has ended.
    async fn serve(&mut self, signals: &mut Signals) {
        let mut is_limited = false;
        let mut limit = pin!(sleep_for(None));
        loop {
            if self.instances.is_empty() && (self.is_stopping || self.supervisor.is_none()) {
                self.stop(None);
                return;
            }
            if self.supervisor.is_none() && !self.is_stopping && self.instances.all_stop() {
                // By `kill`.
                self.stop(None);
            }
            self.status.send_if_due(&self.instances, self.is_stopping);
            select! {
                action = signals.next() => {
                    let grace = match action {
                        SignalAction::Drain => self.grace(),
                        SignalAction::Abort => Duration::ZERO,
                        // A process has no configuration file, but the addresses of names may have
                        // changed.
                        SignalAction::Reload => {
                            self.instances.iter().for_each(|(_, it)| it.re_resolve.notify_one());
                            continue;
                        }
                        SignalAction::Upgrade => {
                            warn!("only a supervisor can be upgraded, signal ignored");
                            continue;
                        }
                    };
                    // `kill` sets no time limit. The first signal after `kill` sets one.
                    if is_limited || grace.is_zero() {
                        self.stop(Some(grace));
                        self.abort();
                        continue;
                    }
                    self.stop(Some(grace));
                    is_limited = true;
                    limit.set(sleep_for(Some(grace)));
                }
                () = &mut limit => {
                    limit.set(sleep_for(None));
                    self.abort();
                }
                event = self.instances.next() => self.on_event(event),
                request = next_request(&mut self.supervisor) => match request {
                    Some(request) => self.on_request(request),
                    None => self.on_supervisor_lost(),
                },
                socket = self.takeover.next() => self.on_takeover(socket),
                completed = self.completed.recv() => if let Some(completed) = completed {
                    self.on_completed(completed).await;
                },
                () = self.status.due() => {}
            }
        }
    }

    /// The longest grace time of all instances.
    fn grace(&self) -> Duration {
        let grace = self.instances.iter().map(|(_, context)| context.settings.borrow().grace);
        grace.max().unwrap_or_default()
    }

    /// Stops accepting.
    fn stop(&mut self, grace: Option<Duration>) {
        if !self.is_stopping {
            self.is_stopping = true;
            info!(
                open = self.instances.shared.open(),
                grace = grace.map(|grace| grace.as_secs()),
                "stopping: waiting for connections to end"
            );
        }
        self.instances.stop();
        self.takeover.release_all();
        // The supervisor reports how many connections are left.
        self.status.make_due();
    }

    fn abort(&self) {
        let open = self.instances.shared.open();
        if open > 0 {
            warn!(open, "aborting open connections");
        }
        self.instances.shared.abort.cancel();
    }

    fn on_event(&mut self, event: InstanceEvent) {
        match event {
            InstanceEvent::Released(id) => {
                self.takeover.release(id);
                let by_command = !self.is_stopping && !self.status.is_removed(id);
                self.status.send(&Event::Released { id, by_command });
            }
            InstanceEvent::Ended(id) => {
                self.status.forget(id);
                self.takeover.forget(id);
                self.status.send(&Event::Ended { id });
            }
        }
    }

    /// The supervisor has ended. The process continues to serve, and waits for another supervisor.
    fn on_supervisor_lost(&mut self) {
        self.supervisor = None;
        self.status.forget_supervisor();
        if self.takeover.begin() {
            warn!("the supervisor has ended, serving without one");
        } else {
            warn!("the supervisor ended during the start, stopping");
            self.stop(None);
        }
    }

    /// Another supervisor has taken this process over.
    fn on_takeover(&mut self, (receiver, sender): SupervisorSocket) {
        info!("another supervisor has taken over");
        self.supervisor = Some(receiver);
        self.status.set_supervisor(sender);
        self.send_supervised();
    }

    fn send_supervised(&self) {
        if let Some(sender) = self.status.sender()
            && let Some((event, fds)) = self.takeover.reply(self.is_stopping)
        {
            sender.send(&event, fds);
        }
    }

    /// Takes the descriptors of a request to serve, and keeps duplicates for another supervisor.
    fn take_descriptors(
        &mut self,
        id: u64,
        line: &InstanceLine,
        count: usize,
    ) -> io::Result<Vec<OwnedFd>> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let fds = self.supervisor.as_mut().ok_or_else(none)?.take(count)?;
        self.takeover.keep(id, line.clone(), &fds)?;
        Ok(fds)
    }

    async fn on_completed(&mut self, completed: Completed) {
        let event = match completed {
            Completed::Prepared(id, prepared) => {
                let mut prepared = *prepared;
                if self.status.is_removed(id) {
                    self.status.forget(id);
                    prepared = Err(StartError::Usage("the instance was removed".to_owned()));
                }
                let event = requests::serve(&mut self.instances, id, prepared).await;
                if matches!(event, Event::Failed { .. }) {
                    self.takeover.forget(id);
                }
                event
            }
            Completed::Configured(id, line, outcome) => {
                if outcome == Configured::Done {
                    self.takeover.set_line(id, line);
                }
                Event::Configured { id, outcome }
            }
        };
        self.status.send(&event);
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Supervise => {
                let fd = self.supervisor.as_mut().and_then(|it| it.take(1).ok()?.pop());
                if let Some(fd) = fd
                    && let Err(error) = self.takeover.set_listener(fd)
                {
                    error!(%error, "cannot use the takeover socket");
                }
                self.send_supervised();
            }
            Request::Serve { id, line, listeners, may_have_clients } => {
                let Ok(fds) = self.take_descriptors(id, &line, listeners + 1) else {
                    let reason = "no descriptor left for the listeners".to_owned();
                    let exit_code = NO_DESCRIPTOR;
                    return self.status.send(&Event::Failed { id, reason, exit_code });
                };
                let (look_ups, sender) =
                    (Arc::clone(&self.look_ups), self.sender_of_completed.clone());
                tokio::spawn(async move {
                    let prepared =
                        requests::prepare(line.words, fds, may_have_clients, look_ups).await;
                    let _ = sender.send(Completed::Prepared(id, Box::new(prepared)));
                });
            }
            Request::Configure { id, line } => {
                let Some(context) = self.instances.get(id).cloned() else { return };
                let sender = self.sender_of_completed.clone();
                tokio::spawn(async move {
                    let outcome = requests::configure(&context, line.words.clone()).await;
                    let _ = sender.send(Completed::Configured(id, line, outcome));
                });
            }
            Request::Remove { id } => {
                self.status.set_removed(id);
                self.takeover.release(id);
                if let Some(context) = self.instances.get(id) {
                    context.stop.cancel();
                    limit_drain(context);
                    self.status.make_due();
                }
            }
            Request::Drain => {
                self.instances.iter().for_each(|(_, context)| limit_drain(context));
                self.stop(None);
            }
            Request::Differences => {
                let instances = self.instances.differences();
                self.status.send(&Event::Differences { instances });
            }
            Request::Ping => {
                let (workers, sender) = (self.instances.workers(), self.status.sender());
                tokio::spawn(async move {
                    if let Some(workers) = workers {
                        workers.ping().await;
                    }
                    if let Some(sender) = sender {
                        sender.send(&Event::Pong, Vec::new());
                    }
                });
            }
        }
    }
}

/// Aborts the connections of an instance after its drain timeout, if it has one.
fn limit_drain(context: &Arc<Context>) {
    let Some(limit) = context.settings.borrow().drain_timeout else { return };
    let context = Arc::downgrade(context);
    tokio::spawn(async move {
        sleep(limit).await;
        if let Some(context) = context.upgrade() {
            let open = context.open();
            if open > 0 {
                let limit = limit.as_secs();
                warn!(
                    listener = context.address.map(tracing::field::display),
                    open, limit, "drain timeout: aborting connections"
                );
            }
            context.abort.cancel();
        }
    });
}

/// Waits for the next request; `None` when the supervisor has ended. Without a supervisor the
/// future never completes.
async fn next_request(supervisor: &mut Option<supervision::Receiver>) -> Option<Request> {
    match supervisor {
        Some(receiver) => receiver.next().await.unwrap_or_else(|error| {
            error!(%error, "cannot read a request of the supervisor");
            None
        }),
        None => std::future::pending().await,
    }
}
