//! The verb `start`.
//!
//! Invariant: in the background, the starting process ends when every instance has been tried, and
//! prints which instances failed.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    check,
    conf::Conf,
    manager,
    output::{WRONG, plural, print, print_error},
    running::{RunningSupervisor, absolute, is_absence},
    stop,
    supervise::{Origin, supervise},
    upgrade_state,
};
use crate::{
    cli::{ServiceLocation, args::LogFormat},
    control::{
        client::rpc::ClientError, instance_files, protocol::SupervisorStatus, run_dir::RunDir,
    },
    error::StartError,
    io::inherited::{self, InheritedListeners},
    logging::{self, Sink},
    notify,
    sys::{
        self,
        daemon::{self, Forked},
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
    // SAFETY: the only call in this process, which has one thread and has opened nothing yet.
    if let Some(inherited) = unsafe { upgrade_state::inherit() }? {
        let sink = if inherited.background { Sink::Background } else { Sink::Foreground };
        logging::init(sink, form, false);
        // The file may have changed since its check. A mistake then changes nothing.
        let location = inherited.location.clone();
        let conf = check::read(&location.config).unwrap_or_default();
        return supervise(&location, conf, Origin::Program(inherited), form, None);
    }
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
        return supervise(location, conf, Origin::Start(inherited_listeners), form, None);
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
            if !stop::wait_for_end(running)? {
                return Err(ClientError::Timeout.into());
            }
        }
        Ok((running, _)) => {
            let pid = running.pid();
            print(&format!("balance is already running (pid {pid}); reload reads its file again"));
            return Ok(None);
        }
        Err(error) if is_absence(&error) => {}
        Err(error) => return Err(error.into()),
    }
    // Positions name the file by its absolute path: the supervisor has another working directory.
    check::read(&absolute(&location.config)).map(Some)
}

/// Finds the running supervisor.
///
/// A supervisor that starts holds the lock before it has a control socket. A supervisor that ends
/// removes its socket first and releases the lock last. In both cases the function tries again.
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
                Origin::Start(InheritedListeners::default()),
                LogFormat::Text,
                Some(ready_notifier),
            )
        }
    }
}
