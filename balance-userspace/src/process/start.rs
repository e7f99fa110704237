//! Starts a process: loads the datapath, spawns the workers, serves.
//!
//! Invariant: every step that can fail comes before the first accept, and before the process that
//! the user started ends.

use std::{path::PathBuf, sync::Arc, thread};

use nix::unistd::User;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    connection_limits::{self, Descriptors},
    instances::Instances,
    lifecycle::Lifecycle,
    protocol::{Event, SpawnConfig},
    supervision::Supervision,
    workers::Workers,
};
use crate::{
    cli::args::Args,
    control::{
        instance_files::{ControlEndpoint, SocketAccess},
        run_dir::RunDir,
    },
    datapath::Choice,
    error::{StartError, one_line},
    instance::{self, shared::Shared, shortage::Shortage},
    io::{inherited::InheritedListeners, listener, stream::SocketOptions},
    logging, notify,
    sys::{self, daemon::ReadyNotifier, memory::Memory, privileges},
};

/// What a process gets from the process that started it, beside its arguments.
#[derive(Default)]
pub struct Started {
    /// Ends the process that the user started, when this process is a daemon.
    pub ready_notifier: Option<ReadyNotifier>,
    /// Listeners that the process inherited.
    pub inherited_listeners: InheritedListeners,
}

/// Serves one instance until a signal or a command ends the process.
///
/// # Errors
/// The process cannot start. There are no errors after the start.
pub fn serve(args: &Args, started: Started) -> Result<(), StartError> {
    let Started { ready_notifier, inherited_listeners } = started;
    if args.user.is_none() {
        logging::start_writer();
    }
    let bind = instance::start::listen_address(args)?;
    let servers = instance::start::resolve(args, bind)?;
    let port = servers.port;
    let user = args.user.as_deref().map(privileges::find).transpose()?;
    let access = SocketAccess::of(args)?;
    let mut loaded = Loaded::load(args, args.max_connections.map(Into::into))?;
    let may_have_clients = !inherited_listeners.is_empty();
    let listeners = if inherited_listeners.is_empty() {
        listener::bind(bind, port, workers(args))?
    } else {
        inherited_listeners.take_all(listener::bind_address(bind, port))?
    };
    // Another user may not set all options.
    let for_clients = servers.client_options(args, loaded.options, &loaded.choice.datapath);
    listener::listen(&listeners, for_clients)?;
    let endpoint = create_control_endpoint(args, port, access)?;
    notify::start();
    loaded.become_user(user.as_ref())?;
    let lifecycle = Lifecycle::new()?;
    let reason = loaded.choice.reason.clone();
    let (shared, workers, threads) = loaded.start(args, listeners.len(), 0, None)?;
    let accepted_options = may_have_clients.then_some(for_clients);
    let context = instance::start::start(args, servers, &listeners, accepted_options, &shared);
    let mut instances = Instances::new(shared, workers);
    let serve = instances.serve(0, listeners, Arc::clone(&context), endpoint);
    lifecycle.block_on(serve).map_err(no_worker)?;
    instance::start::log_ready(&context, args, &reason);
    if let Some(ready_notifier) = ready_notifier {
        ready_notifier
            .notify(0)
            .map_err(|source| StartError::System { act: "go to the background", source })?;
    }
    notify::ready();
    lifecycle.run(instances, threads, None);
    context.totals.log();
    Ok(())
}

/// Serves the instances that a supervisor sends, until a signal or the supervisor ends the process.
///
/// # Errors
/// The process cannot start. The supervisor knows the reason already.
pub fn serve_supervised(
    config: &SpawnConfig,
    mut supervision: Supervision,
) -> Result<(), StartError> {
    // The supervisor executes /proc/self/exe.
    sys::set_name(c"balance");
    match start_supervised(config) {
        Ok((lifecycle, instances, threads)) => {
            lifecycle.run(instances, threads, Some((supervision, config.clone())));
            Ok(())
        }
        Err(error) => {
            let (reason, exit_code) = (one_line(&error.to_string()), error.exit_code());
            supervision.send_last(&Event::CannotStart { reason, exit_code });
            Err(error)
        }
    }
}

fn start_supervised(config: &SpawnConfig) -> Result<(Lifecycle, Instances, Threads), StartError> {
    let args = &config.args()?;
    logging::init(config.sink(), config.log_format(args.log_format), args.debug);
    if args.user.is_none() {
        logging::start_writer();
    }
    let user = args.user.as_deref().map(privileges::find).transpose()?;
    let mut loaded = Loaded::load(args, config.max_connections)?;
    loaded.become_user(user.as_ref())?;
    let lifecycle = Lifecycle::new()?;
    info!(datapath = %loaded.choice.datapath.name(), reason = loaded.choice.reason, "process ready");
    // Listeners and control sockets, each with a duplicate for another supervisor, and the takeover
    // socket.
    let late = 2 * (config.listeners + config.instances) + 1;
    let file = Some(config.file.clone());
    let (shared, workers, threads) = loaded.start(args, config.listeners, late, file)?;
    Ok((lifecycle, Instances::new(shared, workers), threads))
}

/// The threads of the workers.
type Threads = Vec<thread::JoinHandle<()>>;

/// A process that has loaded its datapath and not started its workers.
struct Loaded {
    choice: Choice,
    options: SocketOptions,
    files: Descriptors,
    memory: Memory,
    wanted: Option<usize>,
}

impl Loaded {
    /// Loads the datapath. `wanted` is the number of connections that the user wants at a time.
    fn load(args: &Args, wanted: Option<usize>) -> Result<Self, StartError> {
        let (memory, files) = (Memory::find(), Descriptors::raise()?);
        let upper_bound = connection_limits::upper_bound(wanted, files, &memory);
        let choice = Choice::load(args, upper_bound)?;
        let options = SocketOptions::probe().map_err(no_socket)?;
        Ok(Self { choice, options, files, memory, wanted })
    }

    /// Switches to a user, if there is one, and starts the log's thread, which keeps the
    /// privileges that it starts with.
    fn become_user(&mut self, user: Option<&User>) -> Result<(), StartError> {
        if let Some(user) = user {
            privileges::become_user(user, self.choice.datapath.required_capabilities())?;
            // The other user may not set all options.
            self.options = SocketOptions::probe().map_err(no_socket)?;
        }
        logging::start_writer();
        Ok(())
    }

    /// Spawns the workers. `listeners` is the number of listeners, and `late` the number of
    /// descriptors that are still to be opened. `config` is the file of the supervisor.
    fn start(
        self,
        args: &Args,
        listeners: usize,
        late: usize,
        config: Option<PathBuf>,
    ) -> Result<(Arc<Shared>, Workers, Threads), StartError> {
        let Self { choice: Choice { datapath, .. }, options, files, memory, wanted } = self;
        let count = workers(args);
        let (workers, threads) = Workers::spawn(count)?;
        let sockets = listeners.max(count);
        // After everything else has opened its descriptors.
        let max_connections =
            connection_limits::connections(wanted, files, &memory, count, sockets, late);
        let shared = Shared {
            config,
            datapath,
            options,
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            accepts: files.accepts(sockets),
            extra_attempts: Arc::new(Semaphore::new(files.extra_attempts())),
            control_clients: files.control_clients(),
            memory,
            shortage: Shortage::default(),
            abort: CancellationToken::new(),
        };
        Ok((Arc::new(shared), workers, threads))
    }
}

fn no_socket(source: std::io::Error) -> StartError {
    StartError::System { act: "create a socket", source }
}

/// The error of an instance that the workers cannot serve.
pub(super) fn no_worker(source: std::io::Error) -> StartError {
    StartError::System { act: "give a listener to the workers", source }
}

/// Creates the control socket. If that fails the instance serves without one, unless `--run-dir` or
/// `--control-group` was given.
fn create_control_endpoint(
    args: &Args,
    port: u16,
    access: SocketAccess,
) -> Result<Option<ControlEndpoint>, StartError> {
    let given = args.run_dir.as_deref();
    let claimed = RunDir::locate(given).map_err(Into::into).and_then(|dir| {
        ControlEndpoint::claim(&dir, dir.instance(args.bind.as_deref(), port)?, access)
    });
    match claimed {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(error) if given.is_some() || access.group.is_some() => Err(error.into()),
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
