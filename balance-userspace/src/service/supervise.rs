//! The process of a supervisor: its files, its signals and its control socket.
//!
//! Invariant: a file has at most one supervisor, which holds the lock of the file.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::{sync::mpsc::unbounded_channel, time::timeout};

use super::{
    conf::Conf,
    control_socket::control_group,
    member::Control,
    running::absolute,
    supervisor::{StopAction, Supervisor, SupervisorSettings},
    takeover,
    upgrade_state::{self, Inherited, Previous},
};
use crate::{
    cli::{ServiceLocation, args::LogFormat},
    control::{
        instance_files::{InstanceFiles, InstanceFilesError, SocketAccess},
        run_dir::{Paths, RunDir},
    },
    error::StartError,
    io::inherited::{self, InheritedListeners},
    logging, notify,
    sys::{
        self,
        daemon::ReadyNotifier,
        signals::{self, SignalAction, Signals},
    },
};

/// Runs the supervisor until it stops.
pub(super) fn supervise(
    location: &ServiceLocation,
    conf: Conf,
    origin: Origin,
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
    let run_dir = location.run_dir.as_ref().map(std::path::absolute).transpose();
    let run_dir = run_dir.map_err(failed("get the working directory"))?;
    let program = origin.program().map_err(failed("find the program"))?;
    let paths = dir.supervisor(&file).map_err(InstanceFilesError::from)?;
    let takeover_path = paths.takeover();
    let background = ready_notifier.is_some() || origin.is_in_background();
    let access = SocketAccess { group: control_group(&conf), ..SocketAccess::default() };
    let (own, inherited_listeners, previous) = origin.claim(&dir, &paths, access)?;
    let takeover = own.files.socket(SocketAccess::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (after, inherited_listeners) =
        runtime.map_err(failed("create the runtime"))?.block_on(async {
            let mut signals = Signals::catch().map_err(failed("install signal handlers"))?;
            signals::unblock();
            let json = form == LogFormat::Json;
            let program = program.clone();
            let settings = SupervisorSettings { file, run_dir, program, dir, background, json };
            let (sender, events) = unbounded_channel();
            let processes = takeover::take_over_all(&takeover_path, &takeover, &sender).await;
            let processes = match (processes, &previous) {
                (Ok(processes), _) => processes,
                // A process of this one that hangs is replaced.
                (Err(_), Some(_)) => Vec::new(),
                (Err(error), None) => return Err(error),
            };
            fs::rename(&paths.next, &takeover_path)
                .map_err(failed("publish the takeover socket"))?;
            let events = (sender, events);
            let mut supervisor = Supervisor::new(
                settings,
                conf,
                inherited_listeners,
                ready_notifier,
                own,
                takeover,
                events,
            );
            supervisor.serve_control().map_err(failed("serve the control socket"))?;
            match previous {
                Some(previous) => supervisor.inherit(previous, processes),
                None => supervisor.take_over_processes(processes),
            }
            let after = supervise_until(&mut supervisor, &mut signals).await?;
            if after == StopAction::Leave {
                // The next supervisor takes the files over with the processes.
                std::mem::forget(supervisor);
                return Ok((after, InheritedListeners::default()));
            }
            Ok::<_, StartError>((after, supervisor.inherited_listeners))
        })?;
    if after != StopAction::Leave {
        let _ = fs::remove_file(takeover_path);
    }
    match after {
        StopAction::Leave => Ok(0),
        StopAction::Restart => Err(re_exec(&program, inherited_listeners)),
        StopAction::Exit(code) => Ok(code),
        StopAction::Upgrade => unreachable!("an upgrade executes another program or goes on"),
    }
}

/// Runs a supervisor until it stops. An upgrade executes another program in this process.
async fn supervise_until(
    supervisor: &mut Supervisor,
    signals: &mut Signals,
) -> Result<StopAction, StartError> {
    if supervisor.is_taking_over {
        supervisor.begin_takeover();
    } else {
        supervisor.start_all();
    }
    loop {
        match supervisor.run(signals).await? {
            StopAction::Upgrade => match blocked(signals).await {
                Some(action) => {
                    signals::unblock();
                    supervisor.signalled(action);
                }
                None => supervisor.execute(),
            },
            after => return Ok(after),
        }
    }
}

/// Blocks all signals, for the program that is executed next. Returns a signal that has arrived
/// before.
async fn blocked(signals: &mut Signals) -> Option<SignalAction> {
    signals::block();
    // The runtime delivers signals when it waits.
    timeout(DELIVERY, signals.next()).await.ok()
}

/// The time in which the runtime delivers a signal that the process has received.
const DELIVERY: Duration = Duration::from_millis(1);

/// Where the state of a supervisor comes from.
pub(super) enum Origin {
    /// A start, with the listeners of the service manager.
    Start(InheritedListeners),
    /// The previous program of this process.
    Program(Inherited),
}

impl Origin {
    /// The path of the program at the first start.
    fn program(&self) -> io::Result<PathBuf> {
        match self {
            Self::Start(_) => upgrade_state::program(),
            Self::Program(inherited) => Ok(inherited.program.clone()),
        }
    }

    fn is_in_background(&self) -> bool {
        matches!(self, Self::Program(inherited) if inherited.background)
    }

    /// Claims the files of the supervisor.
    fn claim(
        self,
        dir: &RunDir,
        paths: &Paths,
        access: SocketAccess,
    ) -> Result<(Control, InheritedListeners, Option<Previous>), StartError> {
        match self {
            Self::Start(listeners) => {
                let files = Arc::new(InstanceFiles::claim(dir, paths.clone())?);
                let listener = files.socket(access)?;
                files.publish(std::process::id())?;
                Ok((Control { files, listener, access }, listeners, None))
            }
            Self::Program(Inherited { lock, control: listener, unused, previous, .. }) => {
                let files = Arc::new(InstanceFiles::with_lock(paths.clone(), lock));
                // The reload after the takeover gives the socket its group.
                Ok((Control::taken_over(files, listener), unused.into(), Some(previous)))
            }
        }
    }
}

/// Executes the program that is now on the disk in this process, and passes on the listeners of the
/// service manager. Returns only on failure.
fn re_exec(program: &Path, inherited_listeners: InheritedListeners) -> StartError {
    let failed = |source| StartError::System { act: "restart", source };
    let listeners = (inherited::FIRST_FD..).zip(inherited_listeners.into_listeners());
    let listeners: Vec<_> = listeners
        .map(|(child_fd, socket)| FdMapping { parent_fd: socket.into(), child_fd })
        .collect();
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    command
        .env("LISTEN_FDS", listeners.len().to_string())
        .env("LISTEN_PID", std::process::id().to_string())
        .env_remove("LISTEN_FDNAMES");
    match command.fd_mappings(listeners) {
        Ok(command) => {
            logging::flush();
            failed(command.exec())
        }
        Err(error) => failed(std::io::Error::other(error)),
    }
}
