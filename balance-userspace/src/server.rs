//! A listener with its groups, served by workers: from parsed arguments to exit.
//!
//! Invariant: everything that can fail is done before the first client is accepted.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use socket2::Socket;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    args::Args,
    datapath::{Choice, Datapath},
    error::StartError,
    listener,
    operand::{self, GroupSpec, Method},
    resolve,
    selection::{Channel, Group, Selector},
    stream::SocketOptions,
    sys, worker,
};

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) selector: Mutex<Selector>,
    pub(crate) datapath: Datapath,
    pub(crate) socket_options: SocketOptions,
    pub(crate) connect_timeout: Duration,
    /// Room for that many more connections.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    pub(crate) totals: Totals,
    /// Accept no more.
    pub(crate) stop: CancellationToken,
    /// End what stands.
    pub(crate) abort: CancellationToken,
}

/// Sums over the life of the process.
#[derive(Default)]
pub(crate) struct Totals {
    connections: AtomicU64,
    unserved: AtomicU64,
    broken: AtomicU64,
    sent: AtomicU64,
    rcvd: AtomicU64,
}

impl Totals {
    pub(crate) fn accepted(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn unserved(&self) {
        self.unserved.fetch_add(1, Relaxed);
    }

    pub(crate) fn broken(&self) {
        self.broken.fetch_add(1, Relaxed);
    }

    pub(crate) fn ended(&self, sent: u64, rcvd: u64) {
        self.sent.fetch_add(sent, Relaxed);
        self.rcvd.fetch_add(rcvd, Relaxed);
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// What keeps it from serving; nothing after it has begun.
pub fn serve(args: &Args) -> Result<(), StartError> {
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let groups = operand::groups(&args.channels, port, &resolve::service)?;
    let bind = args.bind.as_deref().map(resolve::listen_address).transpose()?;
    let selector = Mutex::new(selector(&groups)?);
    let workers = args.workers.map_or_else(processors, usize::from);
    let max_connections = capacity(args.max_connections.map(Into::into), workers)?;

    let Choice { datapath, why } = Choice::make(args.datapath, max_connections, args.debug)?;
    let socket_options = datapath
        .socket_options()
        .map_err(|source| StartError::System { act: "make a socket", source })?;
    let listeners = listener::bind(bind, port, workers, socket_options)?;
    let address = listeners[0].local_addr().ok().and_then(|a| a.as_socket());
    let name = datapath.name();
    let shared = Arc::new(Shared {
        selector,
        datapath,
        socket_options,
        connect_timeout: args.connect_timeout(),
        room: Arc::new(Semaphore::new(max_connections)),
        max_connections,
        totals: Totals::default(),
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
    });
    let mut control = Control::new()?;
    let threads = start(listeners, &shared)?;

    info!(
        address = %address.map_or_else(|| port.to_string(), |a| a.to_string()),
        groups = describe(&shared), datapath = %name, why, "ready"
    );
    control.run(&shared, args.grace(), threads);
    let t = &shared.totals;
    info!(
        connections = t.connections.load(Relaxed),
        unserved = t.unserved.load(Relaxed),
        broken = t.broken.load(Relaxed),
        sent = t.sent.load(Relaxed),
        rcvd = t.rcvd.load(Relaxed),
        "stopped"
    );
    Ok(())
}

fn selector(specs: &[GroupSpec]) -> Result<Selector, StartError> {
    let groups = specs.iter().map(|spec| {
        let channels = spec.channels.iter().map(|channel| {
            Ok(Channel::new(resolve::addresses(&channel.host, channel.port)?, channel.max))
        });
        Ok(Group::new(spec.method, channels.collect::<Result<_, StartError>>()?))
    });
    Ok(Selector::new(groups.collect::<Result<_, StartError>>()?))
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Descriptors of the process that no connection uses, beside those of the workers: maps,
/// program, log, signals. Tests count them.
const RESERVED: usize = 32;

/// How many connections the limit of descriptors allows, raised as far as it goes: two each,
/// and those that wait in accept.
fn capacity(wanted: Option<usize>, workers: usize) -> Result<usize, StartError> {
    let limit = sys::raise_nofile()
        .map_err(|source| StartError::System { act: "raise the limit of open files", source })?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserved = RESERVED + workers * (worker::ACCEPTS + 6);
    let allowed = limit.saturating_sub(reserved).max(2) / 2;
    // A limit beyond this is a formality, and the maps are made for all of them.
    let allowed = allowed.min(1 << 20);
    let Some(wanted) = wanted else {
        return Ok(allowed);
    };
    if wanted > allowed {
        warn!(
            wanted,
            allowed,
            open_files = limit,
            "the limit of open files allows fewer connections"
        );
    }
    Ok(wanted.min(allowed))
}

/// Starts the workers; each makes its ring before this returns.
fn start(
    listeners: Vec<Socket>,
    shared: &Arc<Shared>,
) -> Result<Vec<thread::JoinHandle<()>>, StartError> {
    let refused = |source| StartError::System { act: "start a worker with an io_uring", source };
    let mut threads = Vec::new();
    for (i, listener) in listeners.into_iter().enumerate() {
        let (made, ready) = std::sync::mpsc::channel();
        let shared = Arc::clone(shared);
        let thread =
            thread::Builder::new().name(format!("worker-{i}")).spawn(
                move || match worker::runtime() {
                    Ok(runtime) => {
                        let _ = made.send(Ok(()));
                        runtime.block_on(worker::run(listener, shared));
                    }
                    Err(e) => drop(made.send(Err(e))),
                },
            );
        threads.push(thread.map_err(refused)?);
        ready.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(refused)?;
    }
    Ok(threads)
}

/// Groups in the syntax of the command line.
fn describe(shared: &Shared) -> String {
    let selector = shared.selector.lock().unwrap_or_else(PoisonError::into_inner);
    let groups = selector.groups().iter().enumerate().map(|(number, group)| {
        let mut text = format!("{number}:");
        for channel in &group.channels {
            text += &format!(" {}", channel.addresses[0]);
            if channel.max > 0 {
                text += &format!(":{}", channel.max);
            }
        }
        if group.method == Method::Hash {
            text += " %";
        }
        text
    });
    groups.collect::<Vec<_>>().join(" ! ")
}

/// The main thread while workers serve: signals, and the kernel program's events.
struct Control {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Control {
    fn new() -> Result<Self, StartError> {
        let refused = |source| StartError::System { act: "wait for signals", source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let _context = runtime.enter();
        let terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        drop(_context);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Serves until the first signal, drains until the second one or the end of the grace
    /// time, then cuts what is left.
    fn run(&mut self, shared: &Arc<Shared>, grace: Duration, threads: Vec<thread::JoinHandle<()>>) {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            let events = async {
                match &shared.datapath {
                    Datapath::Sockmap(kernel) => kernel.dispatch().await,
                    Datapath::Relay => std::future::pending().await,
                }
            };
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let control = async {
                select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
                shared.stop.cancel();
                let open = shared.max_connections - shared.room.available_permits();
                info!(open, grace = grace.as_secs(), "stopping: waiting for connections to end");
                select! {
                    _ = &mut joined => return,
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = tokio::time::sleep(grace) => {}
                }
                let open = shared.max_connections - shared.room.available_permits();
                if open > 0 {
                    warn!(open, "cutting connections");
                }
                shared.abort.cancel();
                let _ = joined.await;
            };
            select! { () = events => {} () = control => {} }
        });
    }
}
