//! A supervisor that runs, found through its control socket.

use std::path::{Path, PathBuf};

use crate::{
    cli::ServiceLocation,
    control::{
        client::{connection::Connection, rpc::ClientError},
        protocol::{SupervisorCommand, SupervisorReply, SupervisorStatus},
    },
};

/// A supervisor that runs.
pub(super) struct RunningSupervisor(Connection);

impl RunningSupervisor {
    pub(super) fn find(place: &ServiceLocation) -> Result<Self, ClientError> {
        Connection::supervisor(place.run_dir.as_deref(), &absolute(&place.config)).map(Self)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    pub(super) fn wait_for_end(&mut self) {
        // One that does not end within seconds after its last word is told of by the next verb.
        let _ = self.0.wait_for_end();
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

/// Whether an error says that there is none.
pub(super) fn is_absence(error: &ClientError) -> bool {
    matches!(error, ClientError::NoMaster | ClientError::Gone(_))
}

/// The same path for everybody who means the same file, also when it is a link that leads elsewhere now,
/// or is gone.
pub(super) fn absolute(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}
