//! The verb `start`, and the set-up of the supervisor's process.
//!
//! Invariants:
//! - A file has at most one supervisor, which holds the lock of the file.
//! - In the background, the starting process ends when every instance has been tried, and prints
//!   which instances failed.

use std::{
    os::unix::process::CommandExt as _,
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::unistd::Gid;
use tokio::{
    select,
    sync::{mpsc::UnboundedSender, oneshot},
};
use tracing::{error, warn};

use super::{
    check,
    conf::Conf,
    event::Event,
    manager,
    output::{WRONG, plural, print, print_error},
    running::{RunningSupervisor, absolute, is_absence},
    stop,
    supervisor::{StopAction, Supervisor, SupervisorSettings},
};
use crate::{
    cli::{ServiceLocation, args::LogFormat},
    control::{
        client::rpc::ClientError,
        instance_files::{self, ControlEndpoint, InstanceFilesError, SocketAccess},
        protocol::{SupervisorCommand, SupervisorReply, SupervisorStatus},
        run_dir::RunDir,
        server::{
            self, Handler,
            client_limiter::{ClientLimits, ClientPermit},
        },
    },
    error::StartError,
    io::inherited::{self, InheritedListeners},
    logging::{self, Sink},
    notify,
    sys::{
        self,
        daemon::{self, Forked, ReadyNotifier},
        privileges,
        signals::Signals,
    },
};

/// Maximum time between the lock and the control socket of a supervisor that starts or ends.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the checks for such a supervisor.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Starts all instances of a file, in the foreground or in the background.
pub(super) fn start(
    location: &ServiceLocation,
    foreground: bool,
    form: LogFormat,
) -> Result<u8, StartError> {
    let foreground = foreground || notify::is_enabled();
    // Instances must not inherit descriptors of the calling process.
    sys::close_on_exec_from(inherited::FIRST_FD);
    let inherited_listeners = if foreground {
        // SAFETY: the only call in this process, which has opened nothing yet.
        unsafe { InheritedListeners::from_service_manager() }?
    } else {
        InheritedListeners::default()
    };
    let Some(conf) = to_start(location)? else { return Ok(0) };
    if !foreground && manager::is_in_charge(location) {
        return manager::start(location);
    }
    if foreground {
        logging::init(Sink::Foreground, form, false);
        return supervise(location, conf, inherited_listeners, form, None);
    }
    detached(location, conf)
}

/// Starts all instances of a file in the background.
pub(super) fn in_background(location: &ServiceLocation) -> Result<u8, StartError> {
    let Some(conf) = to_start(location)? else { return Ok(0) };
    detached(location, conf)
}

/// Reads the file; `None` if its supervisor already runs. Waits for the end of a stopping
/// supervisor.
fn to_start(location: &ServiceLocation) -> Result<Option<Conf>, StartError> {
    match find(location) {
        Ok((running, table)) if table.stopping => {
            print("balance is stopping: waiting for its end");
            let waited = stop::wait_for_end(running);
            waited?;
        }
        Ok((running, _)) => {
            let pid = running.pid();
            print(&format!("balance is already running (pid {pid}); reload reads its file again"));
            return Ok(None);
        }
        Err(error) if is_absence(&error) => {}
        Err(error) => return Err(error.into()),
    }
    // The positions in the file must stay valid in the supervisor, which has another directory.
    check::read(&absolute(&location.config)).map(Some)
}

/// Finds the running supervisor.
///
/// A supervisor that starts holds the lock before it has a control socket. A supervisor that ends
/// holds the lock for a moment after its socket is gone. In both cases the function tries again.
fn find(location: &ServiceLocation) -> Result<(RunningSupervisor, SupervisorStatus), ClientError> {
    let begun = Instant::now();
    loop {
        let found = RunningSupervisor::find(location).and_then(|mut running| {
            let table = running.table()?;
            Ok((running, table))
        });
        match found {
            Err(error)
                if is_absence(&error) && is_locked(location) && begun.elapsed() < START_TIMEOUT =>
            {
                thread::sleep(POLL_INTERVAL);
            }
            found => return found,
        }
    }
}

/// Whether a supervisor holds the lock of the file.
fn is_locked(location: &ServiceLocation) -> bool {
    RunDir::locate(location.run_dir.as_deref())
        .and_then(|dir| dir.supervisor(&absolute(&location.config)))
        .is_ok_and(|paths| instance_files::is_held(&paths))
}

fn detached(location: &ServiceLocation, conf: Conf) -> Result<u8, StartError> {
    conf.wrong().iter().for_each(|wrong| print_error(wrong));
    if conf.lines.is_empty() && !conf.mistakes.is_empty() {
        return Ok(WRONG);
    }
    // The daemon has another working directory.
    let run_dir = location.run_dir.as_ref().map(std::path::absolute);
    let run_dir = run_dir
        .transpose()
        .map_err(|source| StartError::System { act: "get the working directory", source })?;
    let location = ServiceLocation { config: absolute(&location.config), run_dir };
    let location = &location;
    let instances = plural(conf.lines.len(), "instance");
    // SAFETY: the process has one thread: until now it only read arguments and the file.
    match unsafe { daemon::detach() }? {
        Forked::Parent(code) => {
            if code == 0 {
                print(&format!("balance is started: {instances}"));
            }
            Ok(code)
        }
        Forked::Daemon(ready_notifier) => {
            logging::init(Sink::Background, LogFormat::Text, false);
            supervise(
                location,
                conf,
                InheritedListeners::default(),
                LogFormat::Text,
                Some(ready_notifier),
            )
        }
    }
}

/// Runs the supervisor until it stops.
fn supervise(
    location: &ServiceLocation,
    conf: Conf,
    inherited_listeners: InheritedListeners,
    form: LogFormat,
    ready_notifier: Option<ReadyNotifier>,
) -> Result<u8, StartError> {
    let failed = |act| move |source| StartError::System { act, source };
    logging::start_writer();
    // The supervisor holds the listeners of all instances.
    sys::raise_open_file_limit().map_err(failed("raise the limit of open files"))?;
    notify::start();
    let dir = RunDir::locate(location.run_dir.as_deref()).map_err(InstanceFilesError::from);
    let dir = dir?;
    let file = absolute(&location.config);
    let paths = dir.supervisor(&file).map_err(InstanceFilesError::from)?;
    let access = SocketAccess { group: control_group(&conf), ..SocketAccess::default() };
    let mut claim = ControlEndpoint::claim(&dir, paths, access)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let after = runtime.map_err(failed("create the runtime"))?.block_on(async {
        let mut signals = Signals::catch().map_err(failed("install signal handlers"))?;
        let json = form == LogFormat::Json;
        let settings = SupervisorSettings { file, dir, background: ready_notifier.is_some(), json };
        let supervisor = Supervisor::new(settings, conf, inherited_listeners, ready_notifier);
        let sender = supervisor.sender();
        let control = claim.take_listener().map(|listener| {
            let has_readers = access.group.is_some();
            let answers = SupervisorHandler { events: sender.clone(), has_readers };
            async move { server::serve(listener, answers, ClientLimits::default()).await }
        });
        let listen = async {
            if let Some(control) = control
                && let Err(error) = control.await
            {
                error!(%error, "cannot serve the control socket");
            }
            std::future::pending::<()>().await;
        };
        select! {
            after = supervisor.run(&mut signals) => after,
            () = listen => unreachable!("this future never completes"),
        }
    })?;
    drop(claim);
    match after {
        (StopAction::Exit(code), _) => Ok(code),
        (StopAction::Restart, inherited_listeners) => Err(re_exec(inherited_listeners)),
    }
}

/// The group of the supervisor's control socket. Each line reports a group that does not exist.
fn control_group(conf: &Conf) -> Option<Gid> {
    let group = conf.process_settings()?.control_group?;
    privileges::find_group(&group)
        .inspect_err(|error| warn!(%error, "control socket without a group"))
        .ok()
}

/// Executes the program that is now on the disk in this process, and passes on the listeners of the
/// service manager. Returns only on failure.
fn re_exec(inherited_listeners: InheritedListeners) -> StartError {
    let failed = |source| StartError::System { act: "restart", source };
    let program = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return failed(error),
    };
    // The path of the new program after an upgrade: the kernel marks the old one as deleted.
    let name = program.to_string_lossy();
    let program = name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned();
    let listeners = (inherited::FIRST_FD..).zip(inherited_listeners.into_listeners());
    let listeners: Vec<_> = listeners
        .map(|(child_fd, socket)| FdMapping { parent_fd: socket.into(), child_fd })
        .collect();
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    // exec(2) keeps the pid, so LISTEN_PID stays valid.
    command.env("LISTEN_FDS", listeners.len().to_string());
    match command.fd_mappings(listeners) {
        Ok(command) => {
            logging::flush();
            failed(command.exec())
        }
        Err(error) => failed(std::io::Error::other(error)),
    }
}

/// Handles requests on the control socket: forwards each command to the supervisor as an event.
#[derive(Clone)]
struct SupervisorHandler {
    events: UnboundedSender<Event>,
    has_readers: bool,
}

impl Handler for SupervisorHandler {
    type Command = SupervisorCommand;

    async fn handle(&self, _: &mut ClientPermit, command: SupervisorCommand) -> SupervisorReply {
        let (reply, answer) = oneshot::channel();
        let gone = || SupervisorReply::Refused("balance is stopping".to_owned());
        if self.events.send(Event::Command(command, reply)).is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    fn has_readers(&self) -> bool {
        self.has_readers
    }

    async fn stopped(&self) {
        // The supervisor serves requests until its process ends.
        std::future::pending::<()>().await;
    }
}
