//! Starts an instance from its parsed arguments, serves and shuts down.
//!
//! Invariant: every step that can fail comes before the first accept, and before the process that
//! the user started ends.

use std::{io, net::IpAddr, rc::Rc, sync::Arc, thread};

use nix::unistd::User;
use socket2::Socket;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cli::{args::Args, operand},
    control::{instance_files::ControlEndpoint, run_dir::RunDir},
    datapath::Choice,
    error::{self, StartError},
    instance::{
        connection_limits::{self, Descriptors},
        context::Context,
        lifecycle::Lifecycle,
        settings::{self, Settings},
        shortage::Shortage,
        table::Table,
        worker,
    },
    io::{
        accept::Listener,
        connect::{self, Connector},
        inherited::{InheritedListeners, Supervision},
        listener,
        loops::{self, LoopDetector},
        resolve, ring,
        stream::SocketOptions,
    },
    logging, notify,
    selection::{self, Method, Selector},
    sys::{daemon::ReadyNotifier, memory::Memory, privileges},
};

/// What an instance gets from the process that started it, beside its arguments.
#[derive(Default)]
pub struct Started {
    /// Ends the process that the user started, when this process is a daemon.
    pub ready_notifier: Option<ReadyNotifier>,
    /// Listeners that the process inherited.
    pub inherited_listeners: InheritedListeners,
    /// The descriptors from the supervisor of this instance.
    pub supervision: Option<Supervision>,
}

/// Serves until a signal or a command ends the instance.
///
/// # Errors
/// The instance cannot start. There are no errors after the start.
pub fn serve(args: &Args, started: Started) -> Result<(), StartError> {
    let Started { ready_notifier, inherited_listeners, supervision } = started;
    if args.user.is_none() {
        logging::start_writer();
    }
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let specs = operand::groups(&args.channels, port, &resolve::service)?;
    let groups = resolve::groups(&specs)?;
    let bind = listen_address(args)?;
    loops::check_servers(Some(listener::bind_address(bind, port)), selection::addresses(&groups))?;
    let selector = Selector::new(groups, settings::policy(args));
    let source = source_address(args)?;
    let user = args.user.as_deref().map(privileges::find).transpose()?;
    let workers = workers(args);
    let memory = Memory::find();
    let files = Descriptors::raise()?;
    let wanted = args.max_connections.map(Into::into);

    let upper_bound = connection_limits::upper_bound(wanted, files, &memory);
    let Choice { datapath, reason } = Choice::load(args, upper_bound)?;
    let no_socket = |source| StartError::System { act: "create a socket", source };
    let options = SocketOptions::probe().map_err(no_socket)?;
    let backends = selector.groups().iter().flat_map(|group| &group.channels);
    let backends = backends.flat_map(|channel| channel.addresses.iter().copied());
    let for_clients = options.with_mss(datapath.mss_for_clients(backends));
    let accepted_options = (!inherited_listeners.is_empty()
        && inherited_listeners.may_have_clients())
    .then_some(for_clients);
    let listeners = if inherited_listeners.is_empty() {
        listener::bind(bind, port, workers)?
    } else {
        inherited_listeners.take_all(listener::bind_address(bind, port))?
    };
    listener::listen(&listeners, for_clients)?;
    let (parent_death_pipe, endpoint) = match supervision {
        Some(Supervision { parent_death_pipe, control }) => {
            (Some(parent_death_pipe), Some(ControlEndpoint::supervised(control)))
        }
        None => (None, create_control_endpoint(args, port, user.as_ref())?),
    };
    notify::start();
    let options = match &user {
        Some(user) => {
            privileges::become_user(user, datapath.required_capabilities())?;
            // The other user may not set all options.
            SocketOptions::probe().map_err(no_socket)?
        }
        None => options,
    };
    // After the change of the user, because the log's thread keeps the privileges that it starts
    // with.
    logging::start_writer();
    let address = listener::local_address(&listeners[0]);
    let datapath_name = datapath.name();
    let lifecycle = Lifecycle::new(endpoint, parent_death_pipe)?;
    let sockets = listeners.len().max(workers);
    let Workers { threads, start_signals, accepting } = spawn_workers(listeners, workers)?;
    // After everything else has opened its descriptors.
    let max_connections = connection_limits::connections(wanted, files, &memory, workers, sockets);
    let context = Arc::new(Context {
        table: Table::new(selector),
        datapath,
        accepted_options,
        connector: Connector::new(
            options,
            source,
            LoopDetector::new(address),
            files.extra_attempts(),
        ),
        settings: watch::Sender::new(Settings::of(args)),
        active_args: Mutex::new(args.clone()),
        permits: Arc::new(Semaphore::new(max_connections)),
        max_connections,
        accepts: files.accepts(sockets),
        control_clients: files.control_clients(),
        memory,
        shortage: Shortage::default(),
        totals: Arc::default(),
        address,
        re_resolve: Notify::new(),
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
    });
    for start in start_signals {
        // The send fails if the worker has ended; `lifecycle` joins its thread.
        let _ = start.send(Arc::clone(&context));
    }

    if args.mmap {
        info!("-M has no effect: there is no shared memory to map");
    }
    info!(
        name = args.name, listener = %address.map_or_else(|| port.to_string(), |a| a.to_string()),
        groups = describe_groups(&context), datapath = %datapath_name, reason, "ready"
    );
    if let Some(ready_notifier) = ready_notifier {
        ready_notifier
            .notify(0)
            .map_err(|source| StartError::System { act: "go to the background", source })?;
    }
    notify::ready();
    lifecycle.run(&context, threads, accepting);
    context.totals.log();
    Ok(())
}

/// The address to listen on; `None` for all addresses.
pub(crate) fn listen_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    match &args.bind {
        Some(host) => resolve::listen_address(host, args.ipv6).map(Some),
        None if args.ipv6 && !listener::has_ipv6_address() => Err(StartError::Listen {
            address: format!("[::]:{}", error::one_line(&args.port)),
            source: io::Error::other("this host has no IPv6 address, and -6 asks for one"),
        }),
        None if args.ipv6 => Ok(Some(std::net::Ipv6Addr::UNSPECIFIED.into())),
        None => Ok(None),
    }
}

/// The address of `-B`, after a test bind without a port. A connection chooses a port that is free
/// towards its server, even if none is free towards all servers.
pub(crate) fn source_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    let Some(host) = &args.source else { return Ok(None) };
    let address = resolve::addresses(host, 0)?[0];
    let refused = |source| StartError::Source { address: address.ip(), source };
    let socket = Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    socket.and_then(|socket| connect::bind_source(&socket, address.ip())).map_err(refused)?;
    Ok(Some(address.ip()))
}

/// Creates the control socket. If that fails the instance serves without one, unless `--run-dir`
/// was given.
fn create_control_endpoint(
    args: &Args,
    port: u16,
    user: Option<&User>,
) -> Result<Option<ControlEndpoint>, StartError> {
    let given = args.run_dir.as_deref();
    let owner = user.map(|user| (user.uid, user.gid));
    let claimed = RunDir::locate(given).map_err(Into::into).and_then(|dir| {
        ControlEndpoint::claim(&dir, dir.instance(args.bind.as_deref(), port)?, owner)
    });
    match claimed {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(error) if given.is_some() => Err(error.into()),
        Err(error) => {
            warn!(%error, "cannot create the control socket, commands are unavailable");
            Ok(None)
        }
    }
}

/// The number of worker threads, and of listeners bound for them.
pub(crate) fn workers(args: &Args) -> usize {
    let processors = || thread::available_parallelism().map_or(1, Into::into);
    args.workers.map_or_else(processors, usize::from)
}

/// Workers that have their rings and wait for the context.
struct Workers {
    threads: Vec<thread::JoinHandle<()>>,
    /// A worker serves once it receives the context.
    start_signals: Vec<std::sync::mpsc::Sender<Arc<Context>>>,
    /// Closes when no worker accepts any more.
    accepting: mpsc::Receiver<()>,
}

/// Spawns the workers. Each has created its ring when this returns.
fn spawn_workers(listeners: Vec<Socket>, workers: usize) -> Result<Workers, StartError> {
    let (is_accepting, accepting) = mpsc::channel(1);
    let refused = |source| StartError::System { act: "start a worker with an io_uring", source };
    let (mut threads, mut start_signals) = (Vec::new(), Vec::new());
    for (i, sockets) in
        listener::distribute(listeners, workers).map_err(refused)?.into_iter().enumerate()
    {
        let (ring_created, ring_result) = std::sync::mpsc::channel();
        let (start, started) = std::sync::mpsc::channel();
        let is_accepting = is_accepting.clone();
        let thread = thread::Builder::new().name(format!("worker-{i}")).spawn(move || {
            match ring::runtime() {
                Ok(runtime) => runtime.block_on(async {
                    let listeners =
                        sockets.into_iter().map(|socket| Listener::new(socket).map(Rc::new));
                    match listeners.collect() {
                        Ok(listeners) => {
                            let _ = ring_created.send(Ok(()));
                            // Blocking is fine: the ring has no work yet. If the start fails the
                            // sender is dropped and the worker ends.
                            if let Ok(context) = started.recv() {
                                worker::run(listeners, context, is_accepting).await;
                            }
                        }
                        Err(e) => drop(ring_created.send(Err(e))),
                    }
                }),
                Err(e) => drop(ring_created.send(Err(e))),
            }
        });
        threads.push(thread.map_err(refused)?);
        start_signals.push(start);
        ring_result
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            .map_err(refused)?;
    }
    Ok(Workers { threads, start_signals, accepting })
}

/// The groups in the syntax of the command line.
fn describe_groups(context: &Context) -> String {
    let inner = context.table.lock();
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
