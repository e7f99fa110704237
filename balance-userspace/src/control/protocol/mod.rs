//! The protocol of the control socket: one JSON object a line, a request and then its reply.
//!
//! An instance takes [`InstanceCommand`]s, a supervisor takes [`SupervisorCommand`]s. Both
//! answer a [`Handshake`] and reject requests by a [`SocketReply`].
//!
//! Invariant: every request names its version. A side that gets another version refuses the request
//! and never guesses. The `version` of a request and [`SocketReply::Mismatch`] are the same in
//! every version, so any two versions can detect each other. Replies carry no text for people: the
//! client renders replies.

mod instance;
mod rows;
mod supervisor;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    instance::{InstanceCommand, InstanceReply},
    rows::{
        ChannelRow, CounterRow, GenerationRow, InstanceRow, InstanceState, ProcessRow, SessionRow,
        Stats, SupervisorStatus,
    },
    supervisor::{SupervisorCommand, SupervisorReply},
};

/// Version of the protocol. Raise it when a reader of the old version would misread the new one.
pub const VERSION: u32 = 1;

/// Longest request in bytes, the newline included: room for the arguments of a very large instance.
pub const REQUEST_LIMIT: usize = 1 << 20;

/// Longest reply in bytes, the newline included: room for the sessions of a very large instance.
pub const REPLY_LIMIT: usize = 32 << 20;

/// A command that a client sends, and the type of its reply.
pub trait ControlCommand: Serialize + DeserializeOwned + Send + 'static {
    /// The reply.
    type Reply: ControlReply;

    /// Whether the command may run for as long as the user lets it, so the client waits without a
    /// limit.
    fn has_no_time_limit(&self) -> bool;

    /// Whether the command only reads. Clients that may not change anything may give it.
    fn is_read_only(&self) -> bool;
}

/// A reply to a command.
pub trait ControlReply: Serialize + DeserializeOwned + Send + 'static {
    /// Whether the request was rejected. The connection is then closed.
    fn is_refusal(&self) -> bool;
}

/// The line that a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<C> {
    /// [`VERSION`] of the client.
    pub version: u32,
    /// The command.
    pub command: C,
}

/// The part of a request that every version can read, also when it does not know the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Preamble {
    /// Version of the client.
    pub version: u32,
}

/// The first command on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handshake {
    /// Asks for the process id and the version. Answered by [`SocketReply::Hello`].
    Hello,
}

/// A reply of the control socket itself, without the handler of commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketReply {
    /// Identifies the process.
    Hello {
        /// Process id.
        pid: u32,
        /// The product's version.
        version: String,
        /// The name of the instance (`--name`).
        #[serde(default)]
        name: Option<String>,
    },
    /// The request is rejected; the reason. [`InstanceReply::Refused`] and
    /// [`SupervisorReply::Refused`] have the same form, so a client reads this one as theirs.
    Refused(String),
    /// The user of the client may not give this command.
    Denied {
        /// The user who may, beside root.
        owner: u32,
        /// Whether the client may read.
        may_read: bool,
    },
    /// The request is of another version.
    Mismatch {
        /// [`VERSION`] of the running process.
        version: u32,
    },
}
