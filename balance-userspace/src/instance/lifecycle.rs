//! The main thread while workers serve: signals, the control socket, idle connections, names,
//! the kernel program's events; and the orderly end.
//!
//! Invariant: a failure of one of these duties does not end the process; only a signal or the
//! `kill` command does.

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

/// Everything that the main thread looks after.
pub(crate) struct Lifecycle {
    runtime: Runtime,
    signals: Signals,
    /// A byte from the supervisor: leave. Ends when there is no supervisor any more.
    parent_death_pipe: Option<Receiver>,
    instance: Option<ControlEndpoint>,
}

impl Lifecycle {
    /// Takes hold of the signals.
    pub(crate) fn new(
        instance: Option<ControlEndpoint>,
        parent_death_pipe: Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "wait for signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let guard = runtime.enter();
        let signals = Signals::catch().map_err(refused)?;
        let parent_death_pipe =
            parent_death_pipe.map(Receiver::from_owned_fd).transpose().map_err(refused)?;
        drop(guard);
        Ok(Self { runtime, signals, parent_death_pipe, instance })
    }

    /// Serves until a signal or `kill`; then waits until all connections have ended. After SIGTERM that
    /// takes the grace time at most, and a second signal ends it at once, as SIGINT does. `accepting` ends
    /// when no worker accepts any more.
    pub(crate) fn run(
        self,
        context: &Arc<Context>,
        threads: Vec<JoinHandle<()>>,
        accepting: mpsc::Receiver<()>,
    ) {
        let Self { runtime, signals, mut instance, parent_death_pipe } = self;
        let listener = instance.as_mut().and_then(ControlEndpoint::take_listener);
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(control(listener, Arc::clone(context), instance, accepting));
            }
            let duties = async {
                let events = context.datapath.handle_events();
                let idle = idle::watch(&context.table, context.settings.subscribe());
                let settings = context.settings.subscribe();
                let names = dns_refresh::watch(&context.table, settings, &context.re_resolve);
                let status = status::watch(context);
                // The handling of events never ends, so a duty that ends does not end the others.
                tokio::join!(events, idle, names, status).0
            };
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let end = async {
                let mut ends = Ends { signals, parent_death_pipe };
                let grace = select! {
                    end = ends.next(context) => Some(end),
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
                        grace = ends.next(context) => {
                            // After `kill` the first signal is the first that sets a limit.
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
            select! { never = duties => match never {}, () = end => {} }
        });
    }
}

/// What asks for the end from outside.
struct Ends {
    signals: Signals,
    parent_death_pipe: Option<Receiver>,
}

impl Ends {
    /// Waits until somebody asks for the end, or there is no supervisor any more, and returns how long
    /// connections may then go on.
    async fn next(&mut self, context: &Context) -> Duration {
        loop {
            let action = select! {
                action = self.signals.next() => action,
                is_drain_requested = drain_requested(&mut self.parent_death_pipe) => {
                    if is_drain_requested {
                        // Connections go on for as long as they like, as after `kill`.
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
                // There is no file to read again, but names may have changed.
                SignalAction::Reload => context.re_resolve.notify_one(),
            }
        }
    }
}

/// Waits until the supervisor, if there is one, tells the process to leave, or is gone: then false.
async fn drain_requested(parent_death_pipe: &mut Option<Receiver>) -> bool {
    match parent_death_pipe {
        Some(parent_death_pipe) => parent_death_pipe.read(&mut [0]).await.is_ok_and(|n| n > 0),
        None => std::future::pending().await,
    }
}

/// Serves the control socket; its names are gone when the program accepts no more, and its listeners
/// are closed: another process may then bind the addresses and claim the names.
async fn control(
    listener: std::os::unix::net::UnixListener,
    context: Arc<Context>,
    instance: Option<ControlEndpoint>,
    mut accepting: mpsc::Receiver<()>,
) {
    if let Err(error) =
        control::server::serve(listener, Arc::clone(&context), context.control_clients).await
    {
        error!(%error, "cannot serve the control socket");
    }
    // Nobody sends anything: it ends with the last worker that accepts.
    let _ = accepting.recv().await;
    drop(instance);
    notify::released();
}
