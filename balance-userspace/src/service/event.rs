//! What happens to a supervisor, from whatever task or thread finds out.

use std::{collections::HashMap, io, process::ExitStatus};

use tokio::sync::oneshot;

use super::{
    conf::{Line, Name},
    notify_socket::Said,
    plan::Plan,
};
use crate::control::protocol::{Command, Reply};

/// What the supervisor is told.
pub(super) enum Event {
    /// A process has ended.
    Ended(u32, io::Result<ExitStatus>),
    /// A process has said something.
    Said(u32, Said),
    /// Somebody asks for something on the control socket.
    Asked(Command, oneshot::Sender<Reply>),
    /// A file that is to be loaded again has been looked at: its lines, or what is wrong.
    Checked(Result<Vec<Line>, Vec<String>>),
    /// Processes have been told what the file asks of them: by instance, what came of it.
    Told(Plan, HashMap<Name, Result<Reply, String>>),
    /// A process was told to leave so long ago that it should have.
    Overdue(u32),
}
