//! The errors that prevent a start, each with its exit code.
//!
//! Invariant: every message is one line that names the object and the act. Exit codes are those of
//! sysexits(3), as the classic uses them.

use std::io;

/// Why the program cannot start or cannot do what the command line asks for.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command line is not valid. The user's mistake.
    #[error("{0}")]
    Usage(String),
    /// A group separator without a channel before it. The user's mistake.
    #[error("no channels in group {0}")]
    EmptyGroup(usize),
    /// A name has no address. A mistake of the user or of the name server.
    #[error("cannot resolve [{name}]: {reason}")]
    Unresolved {
        /// The name as given.
        name: String,
        /// The resolver's error.
        reason: String,
    },
    /// The listen address cannot be used: taken, not local, or not permitted.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address and port of the attempt.
        address: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A server address is the listener's own address. The user's mistake.
    #[error("server {server} is the listener {listener} itself")]
    OwnListener {
        /// The server's address.
        server: std::net::SocketAddr,
        /// The address of the listener.
        listener: std::net::SocketAddr,
    },
    /// The source address of `-B` cannot be used.
    #[error("cannot connect from {address}: {source}")]
    Source {
        /// The address.
        address: std::net::IpAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file given by the user cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A running process does not answer, or the control socket cannot be created.
    #[error("{message}")]
    Control {
        /// The message.
        message: String,
        /// The exit code of sysexits(3).
        exit_code: u8,
    },
    /// The user of `--user` does not exist. The user's mistake.
    #[error("there is no user {0}")]
    NoUser(String),
    /// The group of `--control-group` does not exist. The user's mistake.
    #[error("there is no group {0}")]
    NoGroup(String),
    /// The process cannot change to the user of `--user`.
    #[error("cannot become user {user}: {source}")]
    Become {
        /// The user.
        user: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A system call that the program needs has failed.
    #[error("cannot {act}: {source}")]
    System {
        /// The act: the words after "cannot".
        act: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The datapath of `--datapath` lacks privileges.
    #[error("datapath {name} is not permitted: {reason}")]
    Forbidden {
        /// The datapath's name.
        name: &'static str,
        /// The reason.
        reason: String,
    },
    /// The datapath of `--datapath` does not work on this system.
    #[error("datapath {name} does not work here: {reason}")]
    Unavailable {
        /// The datapath's name.
        name: &'static str,
        /// The reason.
        reason: String,
    },
}

/// Escapes the control characters of a text, line breaks included. Text from the user or from a
/// peer thus stays on one line and cannot control a terminal.
pub fn one_line(text: &str) -> String {
    let escape =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

impl StartError {
    /// The exit code of sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::OwnListener { .. } => 64,
            Self::Unresolved { .. } => 65,
            Self::Unreadable { .. } => 66,
            Self::EmptyGroup(_) | Self::Unavailable { .. } => 69,
            Self::Listen { .. } | Self::Source { .. } | Self::System { .. } => 71,
            Self::Control { exit_code, .. } => *exit_code,
            Self::NoUser(_) | Self::NoGroup(_) => 67,
            Self::Forbidden { .. } | Self::Become { .. } => 77,
        }
    }
}
