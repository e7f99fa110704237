//! The verb `start`, and what the supervisor's process is made of.
//!
//! Invariant: there is one supervisor of a file, whose lock says so; in the background the process
//! that the user started ends when every instance has been tried, and says which do not serve.

use std::{
    os::unix::process::CommandExt as _,
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::{
    select,
    sync::{mpsc::UnboundedSender, oneshot},
};
use tracing::error;

use super::{
    check,
    conf::Conf,
    event::Event,
    manager,
    notify_socket::NotifySocket,
    output::{WRONG, plural, print, print_error},
    running::{RunningSupervisor, absolute, is_absence},
    stop,
    supervisor::{StopAction, Supervisor, SupervisorSettings},
};
use crate::{
    cli::{ServiceLocation, args::LogFormat},
    control::{
        client::rpc::ClientError,
        instance_files::{self, ControlEndpoint, InstanceFilesError},
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
        signals::Signals,
    },
};

/// How long a supervisor may be about to end or to begin, and how often that is looked at.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Starts all instances of a file.
pub(super) fn start(
    place: &ServiceLocation,
    foreground: bool,
    form: LogFormat,
) -> Result<u8, StartError> {
    let foreground = foreground || notify::is_awaited();
    // What whoever started us has left open is not for instances.
    sys::close_on_exec_from(inherited::FIRST_FD);
    let inherited_listeners = if foreground {
        // SAFETY: the only call in this process, which has opened nothing yet.
        unsafe { InheritedListeners::from_service_manager() }?
    } else {
        InheritedListeners::default()
    };
    let Some(conf) = to_start(place)? else { return Ok(0) };
    if !foreground && manager::is_in_charge(place) {
        return manager::start(place);
    }
    if foreground {
        logging::init(Sink::Foreground, form, false);
        return supervise(place, conf, inherited_listeners, form, None);
    }
    detached(place, conf)
}

/// The same in the background.
pub(super) fn in_background(place: &ServiceLocation) -> Result<u8, StartError> {
    let Some(conf) = to_start(place)? else { return Ok(0) };
    detached(place, conf)
}

/// What is to be started; nothing if it runs already. One that is on its way out is waited for.
fn to_start(place: &ServiceLocation) -> Result<Option<Conf>, StartError> {
    match find(place) {
        Ok((running, table)) if table.stopping => {
            print("balance is stopping: waiting for its end");
            let waited = stop::wait_for_end(running, 0);
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
    check::read(&place.config).map(Some)
}

/// Finds the supervisor that runs. One that ends has its lock for a moment longer than its socket, and one
/// that starts has it for a moment before.
fn find(place: &ServiceLocation) -> Result<(RunningSupervisor, SupervisorStatus), ClientError> {
    let begun = Instant::now();
    loop {
        let found = RunningSupervisor::find(place).and_then(|mut running| {
            let table = running.table()?;
            Ok((running, table))
        });
        match found {
            Err(error)
                if is_absence(&error) && is_locked(place) && begun.elapsed() < START_TIMEOUT =>
            {
                thread::sleep(POLL_INTERVAL);
            }
            found => return found,
        }
    }
}

/// Whether a supervisor of the file holds its lock.
fn is_locked(place: &ServiceLocation) -> bool {
    RunDir::locate(place.run_dir.as_deref())
        .and_then(|dir| dir.supervisor(&absolute(&place.config)))
        .is_ok_and(|paths| instance_files::is_held(&paths))
}

fn detached(place: &ServiceLocation, conf: Conf) -> Result<u8, StartError> {
    conf.wrong(&place.config).iter().for_each(|wrong| print_error(wrong));
    if conf.lines.is_empty() && !conf.mistakes.is_empty() {
        return Ok(WRONG);
    }
    // The daemon's directory is another one.
    let run_dir = place.run_dir.as_ref().map(std::path::absolute);
    let run_dir = run_dir
        .transpose()
        .map_err(|source| StartError::System { act: "find out where we are", source })?;
    let place = ServiceLocation { config: absolute(&place.config), run_dir };
    let place = &place;
    let instances = plural(conf.lines.len(), "instance");
    // SAFETY: nothing has started a thread: only arguments and the file were read.
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
                place,
                conf,
                InheritedListeners::default(),
                LogFormat::Text,
                Some(ready_notifier),
            )
        }
    }
}

/// Is the supervisor, to its end.
fn supervise(
    place: &ServiceLocation,
    conf: Conf,
    inherited_listeners: InheritedListeners,
    form: LogFormat,
    ready_notifier: Option<ReadyNotifier>,
) -> Result<u8, StartError> {
    let refused = |act| move |source| StartError::System { act, source };
    logging::begin();
    // It holds the listeners of all of them.
    sys::raise_open_file_limit().map_err(refused("raise the limit of open files"))?;
    notify::begin();
    let dir = RunDir::locate(place.run_dir.as_deref()).map_err(InstanceFilesError::from);
    let dir = dir?;
    let file = absolute(&place.config);
    let paths = dir.supervisor(&file).map_err(InstanceFilesError::from)?;
    let inbox_path = paths.notify_socket.clone();
    let mut claim = ControlEndpoint::claim(&dir, paths, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let after = runtime.map_err(refused("make a runtime"))?.block_on(async {
        let notify_socket = NotifySocket::bind(&inbox_path).map_err(refused("make the notify_socket"))?;
        let mut signals = Signals::catch().map_err(refused("wait for signals"))?;
        let json = form == LogFormat::Json;
        let settings = SupervisorSettings { file, dir, background: ready_notifier.is_some(), json };
        let supervisor = Supervisor::new(settings, conf, inherited_listeners, &notify_socket, ready_notifier);
        let sender = supervisor.sender();
        let control = claim.take_listener().map(|listener| {
            let answers = SupervisorHandler(sender.clone());
            async move { server::serve(listener, answers, ClientLimits::default()).await }
        });
        let listen = async {
            if let Some(control) = control
                && let Err(error) = control.await
            {
                error!(%error, "the control socket cannot be served");
            }
            std::future::pending::<()>().await;
        };
        select! {
            after = supervisor.run(&mut signals) => after,
            () = forward_notifications(&notify_socket, &sender) => unreachable!("it goes on for ever"),
            () = listen => unreachable!("it goes on for ever"),
        }
    })?;
    drop(claim);
    match after {
        (StopAction::Exit(code), _) => Ok(code),
        (StopAction::Restart, inherited_listeners) => Err(re_exec(inherited_listeners)),
    }
}

/// Passes on what instances say of themselves, for ever.
async fn forward_notifications(notify_socket: &NotifySocket, sender: &UnboundedSender<Event>) {
    loop {
        match notify_socket.next().await {
            Ok((pid, notification)) => drop(sender.send(Event::Notified(pid, notification))),
            Err(error) => {
                error!(%error, "what instances say cannot be heard");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Begins anew in this process, with the program as it is on the disk now and the service manager's
/// listeners; returns why not.
fn re_exec(inherited_listeners: InheritedListeners) -> StartError {
    let failed = |source| StartError::System { act: "begin anew", source };
    let program = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return failed(error),
    };
    // What an upgrade has put in its place.
    let name = program.to_string_lossy();
    let program = name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned();
    let listeners = (inherited::FIRST_FD..).zip(inherited_listeners.into_listeners());
    let listeners: Vec<_> = listeners
        .map(|(child_fd, socket)| FdMapping { parent_fd: socket.into(), child_fd })
        .collect();
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    // The number of the process stays the same.
    command.env("LISTEN_FDS", listeners.len().to_string());
    match command.fd_mappings(listeners) {
        Ok(command) => {
            logging::flush();
            failed(command.exec())
        }
        Err(error) => failed(std::io::Error::other(error)),
    }
}

/// The control socket's side of the supervisor: orders go to it one by one.
#[derive(Clone)]
struct SupervisorHandler(UnboundedSender<Event>);

impl Handler for SupervisorHandler {
    type Command = SupervisorCommand;

    async fn handle(&self, _: &mut ClientPermit, command: SupervisorCommand) -> SupervisorReply {
        let (reply, answer) = oneshot::channel();
        let gone = || SupervisorReply::Refused("balance is on its way out".to_owned());
        if self.0.send(Event::Command(command, reply)).is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    async fn stopped(&self) {
        // It answers to its last moment.
        std::future::pending::<()>().await;
    }
}
