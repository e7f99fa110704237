//! The events that a supervisor handles.
//!
//! Invariant: other tasks and threads never touch the state of the supervisor; they send these
//! events.

use std::{collections::HashMap, io, process::ExitStatus};

use tokio::sync::oneshot;

use super::{
    conf::{InstanceName, Line},
    notify_socket::Notification,
    plan::Plan,
};
use crate::control::protocol::{InstanceReply, SupervisorCommand, SupervisorReply};

/// An event from a task or thread of the supervisor.
pub(super) enum Event {
    /// The process with this pid has ended.
    Exited(u32, io::Result<ExitStatus>),
    /// The process with this pid has sent a notification.
    Notified(u32, Notification),
    /// A client of the control socket has sent a command.
    Command(SupervisorCommand, oneshot::Sender<SupervisorReply>),
    /// The file of a reload has been checked: its lines, or its mistakes.
    Checked(Result<Vec<Line>, Vec<String>>),
    /// The running processes have got their new arguments: the reply of each instance.
    Configured(Plan, HashMap<InstanceName, Result<InstanceReply, String>>),
    /// The process with this pid has not closed its listeners within the time limit.
    DrainOverdue(u32),
}
