//! Server processes without a supervisor, for the verbs `stop` and `status`.
//!
//! Invariant: only the holder of the supervisor's lock stops such a process, so no supervisor takes
//! it over meanwhile.

use std::{fs, io, path::Path};

use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::mpsc::unbounded_channel;

use super::{event::Event, running::absolute, takeover::take_over_all};
use crate::{
    cli::ServiceLocation,
    control::{
        instance_files::{InstanceFiles, InstanceFilesError, SocketAccess},
        run_dir::{Paths, RunDir, RunDirError},
    },
    error::StartError,
};

/// Whether a process of the file serves without a supervisor.
pub(super) fn exists(location: &ServiceLocation) -> bool {
    paths(location).is_ok_and(|(_, paths)| accepts(&paths.takeover()))
}

fn accepts(takeover: &Path) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(takeover)?)
    };
    // Many connections may wait already, at a process that does not accept.
    connect().map_or_else(|error: io::Error| error.kind() == io::ErrorKind::WouldBlock, |()| true)
}

fn paths(location: &ServiceLocation) -> Result<(RunDir, Paths), RunDirError> {
    let dir = RunDir::locate(location.run_dir.as_deref())?;
    let paths = dir.supervisor(&absolute(&location.config))?;
    Ok((dir, paths))
}

/// Stops the processes of the file that serve without a supervisor, each within its grace time.
/// Returns how many there were.
///
/// # Errors
/// When a supervisor has started meanwhile, or when the system refuses the takeover.
pub(super) fn stop(location: &ServiceLocation) -> Result<usize, StartError> {
    let failed = |source| StartError::System { act: "stop the server process", source };
    let (dir, paths) = paths(location).map_err(InstanceFilesError::from)?;
    let files = InstanceFiles::claim(&dir, paths.clone())?;
    let socket = files.socket(SocketAccess::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let stopped = runtime.map_err(failed)?.block_on(async {
        let (sender, mut events) = unbounded_channel();
        let processes = take_over_all(&paths.takeover(), &socket, &sender).await?;
        processes.iter().for_each(|it| it.process.signal(Signal::SIGTERM));
        let mut left = processes.len();
        while left > 0 {
            if let Some(Event::Exited(..)) = events.recv().await {
                left -= 1;
            }
        }
        Ok(processes.len())
    });
    if stopped.is_ok() {
        let _ = fs::remove_file(paths.takeover());
    }
    stopped
}
