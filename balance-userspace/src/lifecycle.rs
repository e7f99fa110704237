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
    control::{self, instance::Instance},
    error::StartError,
    idle, names,
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
}

impl Lifecycle {
    /// Takes hold of the signals.
    pub(crate) fn new(
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
        Ok(Self { runtime, signals, leash, instance })
    }

    /// Serves until a signal or `kill`; then waits until all connections have ended. After SIGTERM that
    /// takes the grace time at most, and a second signal ends it at once, as SIGINT does.
    pub(crate) fn run(self, shared: &Arc<Shared>, threads: Vec<JoinHandle<()>>) {
        let Self { runtime, mut signals, mut instance, leash } = self;
        let listener = instance.as_mut().and_then(Instance::take_listener);
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(control(listener, Arc::clone(shared), instance));
            }
            let duties = async {
                let events = shared.datapath.dispatch();
                let idle = idle::watch(&shared.table, shared.settings.subscribe());
                let settings = shared.settings.subscribe();
                let names = names::watch(&shared.table, settings, &shared.failed);
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
                    grace = asked_to_end(&mut signals, shared) => Some(grace),
                    () = end_of(leash) => Some(shared.settings.borrow().grace),
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
                    _ = asked_to_end(&mut signals, shared) => {}
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
async fn asked_to_end(signals: &mut Signals, shared: &Shared) -> Duration {
    loop {
        match signals.next().await {
            Wish::Drain => return shared.settings.borrow().grace,
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

/// For ever without a duration.
pub(crate) async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}
