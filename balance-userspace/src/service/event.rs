//! The events that a supervisor handles.
//!
//! Invariant: other tasks and threads never touch the state of the supervisor; they send these
//! events.

use std::{io, net::IpAddr, process::ExitStatus};

use socket2::Socket;
use tokio::sync::oneshot;

use crate::{
    control::{
        instance_files::SocketAccess,
        protocol::{SupervisorCommand, SupervisorReply},
    },
    error::StartError,
    process::protocol,
};

/// The result of the look-ups, and new listeners.
pub(super) struct Prepared {
    pub(super) access: SocketAccess,
    /// None for all addresses.
    pub(super) address: Option<IpAddr>,
    /// Empty if listeners of the service manager are at the address, or if the instance has some.
    pub(super) listeners: Vec<Socket>,
}

/// Why an upgrade is refused: a line for each reason, and the exit code.
pub(super) type Refusal = (Vec<String>, u8);

/// An event from a task or thread of the supervisor.
pub(super) enum Event {
    /// The server process with this pid has ended.
    Exited(u32, io::Result<ExitStatus>),
    /// The server process with this pid has sent a message.
    Process(u32, protocol::Event),
    /// The service manager has sent SIGTERM, to restart the service or to stop it.
    Terminated { is_restart: bool },
    /// The look-ups of the instance with this number are complete.
    Prepared(u64, Result<Prepared, StartError>),
    /// The program on the disk has checked the file and the state of the supervisor.
    Checked(Result<(), Refusal>),
    /// A client of the control socket has sent a command.
    Command(SupervisorCommand, oneshot::Sender<SupervisorReply>),
}
