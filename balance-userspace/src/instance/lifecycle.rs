//! The main thread while workers serve: signals, the control socket, idle connections, name
//! resolution, events of the BPF program, and the orderly shutdown.
//!
//! Invariant: a failure of one of these duties does not end the process. Only a signal, the `kill`
//! command or the supervisor does.

use std::{os::fd::OwnedFd, pin::pin, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    io::AsyncReadExt as _, net::unix::pipe::Receiver, runtime::Runtime, select, sync::mpsc,
};
use tracing::{error, info, warn};

use crate::{
    control::{self, instance_files::ControlEndpoint},
    error::StartError,
    instance::{context::Context, dns_refresh, idle, status, timer::sleep_for},
    notify,
    sys::signals::{SignalAction, Signals},
};

/// The duties of the main thread.
pub(crate) struct Lifecycle {
    runtime: Runtime,
    signals: Signals,
    /// A byte from the supervisor requests a drain. The pipe closes when the supervisor has exited.
    parent_death_pipe: Option<Receiver>,
    endpoint: Option<ControlEndpoint>,
}

impl Lifecycle {
    /// Catches the signals.
    pub(crate) fn new(
        endpoint: Option<ControlEndpoint>,
        parent_death_pipe: Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "catch signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let guard = runtime.enter();
        let signals = Signals::catch().map_err(refused)?;
        let parent_death_pipe =
            parent_death_pipe.map(Receiver::from_owned_fd).transpose().map_err(refused)?;
        drop(guard);
        Ok(Self { runtime, signals, parent_death_pipe, endpoint })
    }

    /// Serves until a signal or `kill`, then waits until all connections have ended. After SIGTERM
    /// the wait is limited to the grace time. A second signal, or SIGINT, aborts the connections at
    /// once. `accepting` closes when no worker accepts any more.
    pub(crate) fn run(
        self,
        context: &Arc<Context>,
        threads: Vec<JoinHandle<()>>,
        accepting: mpsc::Receiver<()>,
    ) {
        let Self { runtime, signals, mut endpoint, parent_death_pipe } = self;
        let listener = endpoint.as_mut().and_then(ControlEndpoint::take_listener);
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(serve_control(listener, Arc::clone(context), endpoint, accepting));
            }
            let duties = async {
                let events = context.datapath.handle_events();
                let idle = idle::watch(&context.table, context.settings.subscribe());
                let settings = context.settings.subscribe();
                let names = dns_refresh::watch(&context.table, settings, &context.re_resolve);
                let status = status::watch(context);
                // The event handler never returns, so the other duties continue when one of them
                // returns.
                tokio::join!(events, idle, names, status).0
            };
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let shutdown = async {
                let mut requests = ShutdownRequests { signals, parent_death_pipe };
                let grace = select! {
                    grace = requests.next(context) => Some(grace),
                    () = context.stop.cancelled() => None,
                };
                context.stop.cancel();
                info!(
                    open = context.open(),
                    grace = grace.map(|grace| grace.as_secs()),
                    "stopping: waiting for connections to end"
                );
                let mut is_limited = grace.is_some();
                let mut limit = pin!(sleep_for(grace));
                loop {
                    select! {
                        _ = &mut joined => return,
                        () = &mut limit => break,
                        grace = requests.next(context) => {
                            // `kill` sets no time limit. The first signal after `kill` sets one.
                            if is_limited || grace.is_zero() {
                                break;
                            }
                            is_limited = true;
                            limit.set(sleep_for(Some(grace)));
                        }
                    }
                }
                if context.open() > 0 {
                    warn!(open = context.open(), "aborting open connections");
                }
                context.abort.cancel();
                let _ = joined.await;
            };
            select! { never = duties => match never {}, () = shutdown => {} }
        });
    }
}

/// The requests from outside to shut down.
struct ShutdownRequests {
    signals: Signals,
    parent_death_pipe: Option<Receiver>,
}

impl ShutdownRequests {
    /// Waits for a request to shut down, or for the exit of the supervisor. Returns how long the
    /// connections may stay open.
    async fn next(&mut self, context: &Context) -> Duration {
        loop {
            let action = select! {
                action = self.signals.next() => action,
                is_drain_requested = drain_requested(&mut self.parent_death_pipe) => {
                    if is_drain_requested {
                        // The connections have no time limit, as after `kill`.
                        context.stop.cancel();
                        continue;
                    }
                    self.parent_death_pipe = None;
                    SignalAction::Drain
                }
            };
            match action {
                SignalAction::Drain => return context.settings.borrow().grace,
                SignalAction::Abort => return Duration::ZERO,
                // An instance has no configuration file, but the addresses of names may have
                // changed.
                SignalAction::Reload => context.re_resolve.notify_one(),
            }
        }
    }
}

/// Waits until the supervisor requests a drain (true) or has exited (false). Without a supervisor
/// waits for ever.
async fn drain_requested(parent_death_pipe: &mut Option<Receiver>) -> bool {
    match parent_death_pipe {
        Some(parent_death_pipe) => parent_death_pipe.read(&mut [0]).await.is_ok_and(|n| n > 0),
        None => std::future::pending().await,
    }
}

/// Serves the control socket. Removes its names once no worker accepts and the listeners are
/// closed: another process may then bind the addresses and claim the names.
async fn serve_control(
    listener: std::os::unix::net::UnixListener,
    context: Arc<Context>,
    endpoint: Option<ControlEndpoint>,
    mut accepting: mpsc::Receiver<()>,
) {
    if let Err(error) =
        control::server::serve(listener, Arc::clone(&context), context.control_clients).await
    {
        error!(%error, "cannot serve the control socket");
    }
    // The channel carries no messages. It closes when the last worker stops accepting.
    let _ = accepting.recv().await;
    drop(endpoint);
    notify::released();
}
