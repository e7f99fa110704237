//! What happens to a supervisor, from whatever task or thread finds out.

use std::{collections::HashMap, io, process::ExitStatus};

use tokio::sync::oneshot;

use super::{
    conf::{InstanceName, Line},
    notify_socket::Notification,
    plan::Plan,
};
use crate::control::protocol::{InstanceReply, SupervisorCommand, SupervisorReply};

/// What the supervisor is told.
pub(super) enum Event {
    /// A process has ended.
    Exited(u32, io::Result<ExitStatus>),
    /// A process has said something.
    Notified(u32, Notification),
    /// Somebody asks for something on the control socket.
    Command(SupervisorCommand, oneshot::Sender<SupervisorReply>),
    /// A file that is to be loaded again has been looked at: its lines, or what is wrong.
    Checked(Result<Vec<Line>, Vec<String>>),
    /// Processes have been told what the file asks of them: by instance, what came of it.
    Configured(Plan, HashMap<InstanceName, Result<InstanceReply, String>>),
    /// A process was told to leave so long ago that it should have.
    DrainOverdue(u32),
}
