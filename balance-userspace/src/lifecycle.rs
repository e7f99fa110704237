//! The main thread while workers serve: signals, the control socket, idle connections, names,
//! the kernel program's events; and the orderly end.
//!
//! Invariant: a failure of one of these duties does not end the process; only a signal or the
//! `kill` command does.

use std::{os::fd::OwnedFd, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    io::AsyncReadExt as _, net::unix::pipe::Receiver, runtime::Runtime, select, time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    args::Args,
    control::{self, instance::Instance},
    error::StartError,
    idle::{self, Limits},
    names,
    server::Shared,
    signals::{Signals, Wish},
    status,
};

/// Everything that the main thread looks after.
pub(crate) struct Lifecycle {
    runtime: Runtime,
    signals: Signals,
    /// Ends when there is no supervisor any more.
    leash: Option<Receiver>,
    instance: Option<Instance>,
    resolve_interval: Option<Duration>,
    limits: Limits,
    grace: Duration,
}

impl Lifecycle {
    /// Takes hold of the signals.
    pub(crate) fn new(
        args: &Args,
        instance: Option<Instance>,
        leash: Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "wait for signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let context = runtime.enter();
        let signals = Signals::catch().map_err(refused)?;
        let leash = leash.map(Receiver::from_owned_fd).transpose().map_err(refused)?;
        drop(context);
        let seconds = |n: u32| Duration::from_secs(n.into());
        Ok(Self {
            runtime,
            signals,
            leash,
            instance,
            resolve_interval: Some(args.resolve_interval).filter(|&n| n > 0).map(seconds),
            limits: Limits {
                idle: args.idle_timeout.map(seconds),
                half_closed: Some(args.half_close_timeout).filter(|&n| n > 0).map(seconds),
            },
            grace: args.grace(),
        })
    }

    /// Serves until a signal or `kill`; then waits until all connections have ended. After SIGTERM that
    /// takes the grace time at most, and a second signal ends it at once, as SIGINT does.
    pub(crate) fn run(self, shared: &Arc<Shared>, threads: Vec<JoinHandle<()>>) {
        let Self { runtime, mut signals, mut instance, leash, .. } = self;
        let listener = instance.as_mut().and_then(Instance::take_listener);
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(control(listener, Arc::clone(shared), instance));
            }
            let duties = async {
                let events = shared.datapath.dispatch();
                let idle = idle::watch(&shared.table, self.limits);
                let names = names::watch(&shared.table, self.resolve_interval, &shared.failed);
                let status = status::watch(shared);
                tokio::join!(events, idle, names, status);
                // Without any of these duties there is still the end to wait for.
                std::future::pending::<()>().await;
            };
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let end = async {
                let grace = select! {
                    grace = asked_to_end(&mut signals, self.grace, shared) => Some(grace),
                    () = end_of(leash) => Some(self.grace),
                    () = shared.stop.cancelled() => None,
                };
                shared.stop.cancel();
                info!(
                    open = shared.open(),
                    grace = grace.map(|grace| grace.as_secs()),
                    "stopping: waiting for connections to end"
                );
                select! {
                    _ = &mut joined => return,
                    _ = asked_to_end(&mut signals, Duration::ZERO, shared) => {}
                    () = sleep_for(grace) => {}
                }
                if shared.open() > 0 {
                    warn!(open = shared.open(), "cutting connections");
                }
                shared.abort.cancel();
                let _ = joined.await;
            };
            select! { () = duties => {} () = end => {} }
        });
    }
}

/// Waits until there is no supervisor any more, if there was one.
async fn end_of(leash: Option<Receiver>) {
    match leash {
        // Nobody writes anything.
        Some(mut leash) => drop(leash.read(&mut [0]).await),
        None => std::future::pending().await,
    }
}

/// Waits until a signal asks for the end, and returns how long that may take.
async fn asked_to_end(signals: &mut Signals, grace: Duration, shared: &Shared) -> Duration {
    loop {
        match signals.next().await {
            Wish::Drain => return grace,
            Wish::End => return Duration::ZERO,
            // There is no file to read again, but names may have changed.
            Wish::Reload => shared.failed.notify_one(),
        }
    }
}

/// Serves the control socket; its files are gone when the program accepts no more.
async fn control(
    listener: std::os::unix::net::UnixListener,
    shared: Arc<Shared>,
    instance: Option<Instance>,
) {
    if let Err(error) = control::server::serve(listener, shared).await {
        error!(%error, "the control socket cannot be served");
    }
    drop(instance);
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}
