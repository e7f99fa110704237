//! A client of a running supervisor, found through its control socket.
//!
//! Invariant: the absolute path of the configuration file identifies a supervisor.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    cli::ServiceLocation,
    control::{
        client::{connection::Connection, rpc::ClientError, script::Transport as _},
        protocol::{SupervisorCommand, SupervisorReply, SupervisorStatus},
    },
};

/// A connection to a running supervisor.
pub(super) struct RunningSupervisor(Connection);

impl RunningSupervisor {
    pub(super) fn find(location: &ServiceLocation) -> Result<Self, ClientError> {
        Self::until(location, None)
    }

    /// Finds a supervisor, and waits for no reply beyond the deadline.
    pub(super) fn until(
        location: &ServiceLocation,
        deadline: Option<Instant>,
    ) -> Result<Self, ClientError> {
        let (run_dir, file) = (location.run_dir.as_deref(), absolute(&location.config));
        Connection::supervisor(run_dir, &file, deadline).map(Self)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until the supervisor has released its lock, or another one has it. Returns false if the
    /// supervisor does not end within seconds.
    pub(super) fn wait_for_end(&mut self) -> bool {
        self.0.wait_until_ended()
    }

    pub(super) fn ask(
        &mut self,
        command: SupervisorCommand,
    ) -> Result<SupervisorReply, ClientError> {
        match self.0.request(command)? {
            SupervisorReply::Refused(why) => Err(ClientError::Refused(why)),
            reply => Ok(reply),
        }
    }

    pub(super) fn table(&mut self) -> Result<SupervisorStatus, ClientError> {
        match self.ask(SupervisorCommand::Instances)? {
            SupervisorReply::Instances(table) => Ok(table),
            _ => Err(ClientError::Unreadable),
        }
    }
}

/// Whether an error means that no supervisor runs.
pub(super) fn is_absence(error: &ClientError) -> bool {
    matches!(error, ClientError::NoMaster | ClientError::Gone(_))
}

/// Makes a path absolute and resolves links in its directory.
///
/// The last component is not resolved. So a file that is a link has the same path after the link
/// changes or is removed.
pub(super) fn absolute(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}
