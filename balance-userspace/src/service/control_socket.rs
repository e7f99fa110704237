//! The control socket of the supervisor: its service, and its group (`--control-group`).
//!
//! Invariant: a client that has connected is served, also when another socket takes the place of the
//! socket.

use std::{io, time::Duration};

use nix::unistd::Gid;
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::sleep,
};
use tracing::{error, warn};

use super::{conf::Conf, event::Event, supervisor::Supervisor};
use crate::{
    control::{
        instance_files::{InstanceFilesError, SocketAccess},
        protocol::{SupervisorCommand, SupervisorReply},
        server::{
            self, Handler,
            client_limiter::{ClientLimits, ClientPermit},
        },
    },
    error::StartError,
    sys::privileges,
};

/// For how long a replaced socket is still accepted from: clients may have connected to it.
const REPLACED: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Serves the control socket. A socket that was served before is served for a moment longer.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn serve_control(&mut self) -> io::Result<()> {
        let listener = self.own.listener.try_clone()?;
        let has_readers = self.own.access.group.is_some();
        let handler = SupervisorHandler { events: self.sender(), has_readers };
        let task = tokio::spawn(async move {
            if let Err(error) = server::serve(listener, handler, ClientLimits::default()).await {
                error!(%error, "cannot serve the control socket");
            }
        });
        if let Some(replaced) = self.control_service.replace(task.abort_handle()) {
            tokio::spawn(async move {
                sleep(REPLACED).await;
                replaced.abort();
            });
        }
        Ok(())
    }

    /// Gives the control socket another group, unless it has this group. Returns whether the socket
    /// was replaced.
    ///
    /// # Errors
    /// When a socket with the group cannot be created. The former socket stays.
    pub(super) fn change_control_group(&mut self, group: Option<Gid>) -> Result<bool, StartError> {
        let access = SocketAccess { group, ..SocketAccess::default() };
        if self.own.access == access {
            return Ok(false);
        }
        let files = &self.own.files;
        let replace = || -> Result<_, InstanceFilesError> {
            let listener = files.socket(access)?;
            files.publish(std::process::id())?;
            Ok(listener)
        };
        self.own.listener = replace().inspect_err(|_| files.discard())?;
        self.own.access = access;
        self.serve_control()
            .map_err(|source| StartError::System { act: "serve the control socket", source })?;
        Ok(true)
    }
}

/// The group of the supervisor's control socket. Each line reports a group that does not exist.
pub(super) fn control_group(conf: &Conf) -> Option<Gid> {
    let group = conf.process_settings()?.control_group?;
    privileges::find_group(&group)
        .inspect_err(|error| warn!(%error, "control socket without a group"))
        .ok()
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
