//! A listener with its groups, served by workers: from parsed arguments to exit.
//!
//! Invariant: everything that can fail is done before the first client is accepted, and before
//! the process that the user started ends.

use std::{io, net::IpAddr, sync::Arc, thread};

use socket2::Socket;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    args::Args,
    background::Detached,
    connect::Outgoing,
    control::{instance::Instance, rundir::RunDir},
    datapath::{Choice, Datapath},
    error::StartError,
    lifecycle::Lifecycle,
    listener,
    operand::{self, GroupSpec, Method},
    resolve,
    selection::{Channel, Group, Policy, Selector},
    sys,
    table::Table,
    totals::Totals,
    worker,
};

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) table: Arc<Table>,
    pub(crate) datapath: Datapath,
    pub(crate) outgoing: Outgoing,
    /// A failed connect disables its channel (`-a`).
    pub(crate) autodisable: bool,
    /// Room for that many more connections.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    pub(crate) totals: Totals,
    /// Told when all addresses of a channel have failed.
    pub(crate) failed: Notify,
    /// Accept no more.
    pub(crate) stop: CancellationToken,
    /// End what stands.
    pub(crate) abort: CancellationToken,
}

/// Serves until a signal or a command ends it. In the background, `detached` is told when it
/// serves.
///
/// # Errors
/// What keeps it from serving; nothing after it has begun.
pub fn serve(args: &Args, detached: Option<Detached>) -> Result<(), StartError> {
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let specs = operand::groups(&args.channels, port, &resolve::service)?;
    let selector = table(&specs)?;
    let policy = Policy { hash_failover: args.hash_failover, autodisable: args.autodisable };
    let bind = listen_address(args)?;
    let source = source_address(args)?;
    let workers = args.workers.map_or_else(processors, usize::from);
    let max_connections = capacity(args.max_connections.map(Into::into), workers)?;

    let Choice { datapath, why } = Choice::make(args, max_connections)?;
    let options = datapath
        .socket_options()
        .map_err(|source| StartError::System { act: "make a socket", source })?;
    let backends = selector.groups().iter().flat_map(|group| &group.channels);
    let backends = backends.flat_map(|channel| channel.addresses.iter().copied());
    let segment = datapath.segment_for_clients(backends);
    let listeners = listener::bind(bind, port, workers, options.with_segment(segment))?;
    let instance = claim(args, port)?;
    let address = listeners[0].local_addr().ok().and_then(|a| a.as_socket());
    let name = datapath.name();
    let shared = Arc::new(Shared {
        table: Table::new(selector.with_policy(policy)),
        datapath,
        outgoing: Outgoing { limit: args.connect_timeout(), options, source },
        autodisable: args.autodisable,
        room: Arc::new(Semaphore::new(max_connections)),
        max_connections,
        totals: Totals::default(),
        failed: Notify::new(),
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
    });
    let lifecycle = Lifecycle::new(args, instance)?;
    let threads = start(listeners, &shared)?;

    if args.mmap {
        info!("-M has no effect: there is no shared memory to be mapped");
    }
    info!(
        address = %address.map_or_else(|| port.to_string(), |a| a.to_string()),
        groups = describe(&shared), datapath = %name, why, "ready"
    );
    if let Some(detached) = detached {
        detached
            .serving()
            .map_err(|source| StartError::System { act: "go to the background", source })?;
    }
    lifecycle.run(&shared, threads);
    shared.totals.tell();
    Ok(())
}

/// The table as written.
fn table(specs: &[GroupSpec]) -> Result<Selector, StartError> {
    let mut groups = Vec::new();
    for spec in specs {
        let channels = spec.channels.iter();
        let channels = channels.map(|c| Ok(Channel::at(resolve::location(c)?, c.max)));
        groups.push(Group::new(spec.method, channels.collect::<Result<_, StartError>>()?));
    }
    Ok(Selector::new(groups))
}

fn listen_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    match &args.bind {
        Some(host) => resolve::listen_address(host, args.ipv6).map(Some),
        None if args.ipv6 => Ok(Some(std::net::Ipv6Addr::UNSPECIFIED.into())),
        None => Ok(None),
    }
}

/// The address of `-B`, tried.
fn source_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    let Some(host) = &args.source else { return Ok(None) };
    let address = resolve::addresses(host, 0)?[0];
    let refused = |source| StartError::Source { address: address.ip(), source };
    let socket = Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    socket.and_then(|socket| socket.bind(&address.into())).map_err(refused)?;
    Ok(Some(address.ip()))
}

/// The control socket. Without one balance serves all the same, unless its place was given.
fn claim(args: &Args, port: u16) -> Result<Option<Instance>, StartError> {
    let claimed = RunDir::locate(args.run_dir.as_deref())
        .map_err(Into::into)
        .and_then(|dir| Instance::claim(&dir, args.bind.as_deref(), port))
        .and_then(|instance| instance.write_pid().map(|()| instance));
    match claimed {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if args.run_dir.is_some() => Err(StartError::Control(error)),
        Err(error) => {
            warn!(%error, "there is no control socket");
            Ok(None)
        }
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Descriptors of the process that no connection uses, beside those of the workers: maps,
/// program, log, signals, control clients. Tests count them.
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
    let Some(wanted) = wanted else { return Ok(allowed) };
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
    let inner = shared.table.lock();
    let groups = inner.selector.groups().iter().enumerate().map(|(number, group)| {
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

impl Shared {
    /// Connections at the moment, those that are being ended included.
    pub(crate) fn open(&self) -> usize {
        self.max_connections - self.room.available_permits()
    }
}
