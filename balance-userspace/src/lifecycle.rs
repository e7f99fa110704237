//! The main thread while workers serve: signals, the control socket, idle connections, names,
//! the kernel program's events; and the orderly end.
//!
//! Invariant: a failure of one of these duties does not end the process; only a signal or the
//! `kill` command does.

use std::{sync::Arc, task::Poll, thread::JoinHandle, time::Duration};

use tokio::{
    runtime::Runtime,
    select,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    args::Args,
    control::{self, instance::Instance},
    error::StartError,
    idle::{self, Limits},
    names,
    server::Shared,
};

/// Everything that the main thread looks after.
pub(crate) struct Lifecycle {
    runtime: Runtime,
    /// Those that end the program.
    ends: [Signal; 4],
    /// Kept so that the signal does no harm: the classic's clients send it.
    _usr1: Signal,
    instance: Option<Instance>,
    resolve_interval: Option<Duration>,
    limits: Limits,
    grace: Duration,
}

impl Lifecycle {
    /// Takes hold of the signals.
    pub(crate) fn new(args: &Args, instance: Option<Instance>) -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "wait for signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let context = runtime.enter();
        let catch = |kind| signal(kind).map_err(refused);
        let ends = [
            catch(SignalKind::terminate())?,
            catch(SignalKind::interrupt())?,
            catch(SignalKind::quit())?,
            catch(SignalKind::hangup())?,
        ];
        let usr1 = catch(SignalKind::user_defined1())?;
        drop(context);
        let seconds = |n: u32| Duration::from_secs(n.into());
        Ok(Self {
            runtime,
            ends,
            _usr1: usr1,
            instance,
            resolve_interval: Some(args.resolve_interval).filter(|&n| n > 0).map(seconds),
            limits: Limits {
                idle: args.idle_timeout.map(seconds),
                half_closed: Some(args.half_close_timeout).filter(|&n| n > 0).map(seconds),
            },
            grace: args.grace(),
        })
    }

    /// Serves until the first signal or `kill`; then waits until all connections have ended.
    /// After a signal that takes the grace time at most, and a second signal ends it at once.
    pub(crate) fn run(self, shared: &Arc<Shared>, threads: Vec<JoinHandle<()>>) {
        let Self { runtime, mut ends, mut instance, .. } = self;
        let listener = instance.as_mut().and_then(Instance::take_listener);
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(control(listener, Arc::clone(shared), instance));
            }
            let duties = async {
                let events = shared.datapath.dispatch();
                let idle = idle::watch(&shared.table, self.limits);
                let names = names::watch(&shared.table, self.resolve_interval, &shared.failed);
                tokio::join!(events, idle, names);
                // Without any of these duties there is still the end to wait for.
                std::future::pending::<()>().await;
            };
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let end = async {
                let signalled = select! {
                    () = any(&mut ends) => true,
                    () = shared.stop.cancelled() => false,
                };
                shared.stop.cancel();
                let grace = if signalled { Some(self.grace) } else { None };
                info!(
                    open = shared.open(),
                    grace = grace.map(|grace| grace.as_secs()),
                    "stopping: waiting for connections to end"
                );
                select! {
                    _ = &mut joined => return,
                    () = any(&mut ends) => {}
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

/// Waits for one of several signals.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        // Each is polled, so that each wakes us.
        let mut came = false;
        for signal in signals.iter_mut() {
            came |= signal.poll_recv(context).is_ready();
        }
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
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
