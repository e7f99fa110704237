//! The main thread while workers serve: signals, requests of the supervisor, events of the BPF
//! programs, and the orderly shutdown.
//!
//! Invariant: a failure of one of these duties does not end the process. Only a signal, the end of
//! its last instance or the supervisor does.

use std::{future::Future, pin::pin, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    runtime::Runtime,
    select,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
};
use tracing::{error, info, warn};

use super::{
    instances::{InstanceEvent, Instances},
    protocol::{Event, Request},
    requests::{self, Prepared},
    status::Status,
    supervision::{self, Receiver, Supervision},
};
use crate::{
    error::StartError,
    instance::timer::sleep_for,
    sys::signals::{SignalAction, Signals},
};

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
        supervision: Option<Supervision>,
    ) {
        let Self { runtime, mut signals } = self;
        runtime.block_on(async {
            let datapath = instances.shared.datapath.clone();
            let (receiver, sender) = match supervision.map(Supervision::split).transpose() {
                Ok(channel) => channel.unzip(),
                Err(error) => return error!(%error, "cannot use the channel of the supervisor"),
            };
            let (prepared_sender, prepared) = unbounded_channel();
            let mut process = Process {
                look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
                prepared,
                prepared_sender,
                instances,
                supervisor: receiver,
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

/// A process that serves.
struct Process {
    instances: Instances,
    /// Permits for threads that resolve names.
    look_ups: Arc<Semaphore>,
    /// Instances that can be served now.
    prepared: UnboundedReceiver<(u64, Result<Prepared, StartError>)>,
    prepared_sender: UnboundedSender<(u64, Result<Prepared, StartError>)>,
    supervisor: Option<Receiver>,
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
                    None => {
                        warn!("the supervisor is gone");
                        self.supervisor = None;
                        self.status.forget_supervisor();
                        let grace = self.grace();
                        self.stop(Some(grace));
                        is_limited = true;
                        limit.set(sleep_for(Some(grace)));
                    }
                },
                prepared = self.prepared.recv() => if let Some((id, mut prepared)) = prepared {
                    if self.status.is_removed(id) {
                        self.status.forget(id);
                        prepared = Err(StartError::Usage("the instance was removed".to_owned()));
                    }
                    let event = requests::serve(&mut self.instances, id, prepared).await;
                    self.status.send(&event);
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
                let by_command = !self.is_stopping && !self.status.is_removed(id);
                self.status.send(&Event::Released { id, by_command });
            }
            InstanceEvent::Ended(id) => {
                self.status.forget(id);
                self.status.send(&Event::Ended { id });
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Serve { id, words, listeners, may_have_clients } => {
                let fds = self.supervisor.as_mut().map(|it| it.take(listeners + 1));
                let Some(Ok(fds)) = fds else {
                    let reason = "no descriptor left for the listeners".to_owned();
                    return self.status.send(&Event::Failed { id, reason, exit_code: 71 });
                };
                let (look_ups, sender) = (Arc::clone(&self.look_ups), self.prepared_sender.clone());
                tokio::spawn(async move {
                    let prepared = requests::prepare(words, fds, may_have_clients, look_ups).await;
                    let _ = sender.send((id, prepared));
                });
            }
            Request::Configure { id, words } => {
                let Some(context) = self.instances.get(id).cloned() else { return };
                let sender = self.status.sender();
                tokio::spawn(async move {
                    let outcome = requests::configure(&context, words).await;
                    if let Some(sender) = sender {
                        sender.send(&Event::Configured { id, outcome }, Vec::new());
                    }
                });
            }
            Request::Remove { id } => {
                self.status.set_removed(id);
                if let Some(context) = self.instances.get(id) {
                    context.stop.cancel();
                    self.status.make_due();
                }
            }
            Request::Drain => self.stop(None),
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

/// Waits for the next request; `None` when the supervisor is gone. Without a supervisor waits for
/// ever.
async fn next_request(supervisor: &mut Option<supervision::Receiver>) -> Option<Request> {
    match supervisor {
        Some(receiver) => receiver.next().await.unwrap_or_else(|error| {
            error!(%error, "cannot read a request of the supervisor");
            None
        }),
        None => std::future::pending().await,
    }
}
