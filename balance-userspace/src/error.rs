//! What can go wrong before balance serves, each with its exit code.
//!
//! Invariant: every message is one line that names the object and the act; exit codes are
//! those of sysexits(3), as the classic used them.

use std::io;

/// Why balance does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command line makes no sense. The user's mistake.
    #[error("{0}")]
    Usage(String),
    /// A group separator without a channel before it. The user's mistake.
    #[error("no channels in group {0}")]
    EmptyGroup(usize),
    /// A name has no address. The user's mistake, or the name server's.
    #[error("cannot resolve [{name}]: {reason}")]
    Unresolved {
        /// The name as given.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The listen address cannot be used: taken, not local, or not permitted.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address and port as tried.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A server is the listener itself. The user's mistake.
    #[error("server {server} is the listener {listener} itself")]
    OwnListener {
        /// The server's address.
        server: std::net::SocketAddr,
        /// Where the instance listens.
        listener: std::net::SocketAddr,
    },
    /// The source address of `-B` cannot be used.
    #[error("cannot connect from {address}: {source}")]
    Source {
        /// The address.
        address: std::net::IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A running process cannot be talked to, or the control socket cannot be made.
    #[error("{message}")]
    Control {
        /// What is wrong.
        message: String,
        /// Exit code of sysexits(3).
        exit_code: u8,
    },
    /// There is no such user. The caller's mistake.
    #[error("there is no user {0}")]
    NoUser(String),
    /// The process cannot become that user's.
    #[error("cannot become user {user}: {source}")]
    Become {
        /// The user.
        user: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses something that balance cannot do without.
    #[error("cannot {act}: {source}")]
    System {
        /// What was tried.
        act: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The datapath that was asked for by name does not work here for lack of privileges.
    #[error("datapath {name} is not permitted: {reason}")]
    Forbidden {
        /// The datapath's name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// The datapath that was asked for by name does not work here.
    #[error("datapath {name} does not work here: {reason}")]
    Unavailable {
        /// The datapath's name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
}

/// Text as one line that leaves a terminal alone: what somebody typed or sent may be in it, line
/// breaks and all.
pub fn one_line(text: &str) -> String {
    let escape =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

impl StartError {
    /// Exit code of sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::OwnListener { .. } => 64,
            Self::Unresolved { .. } => 65,
            Self::Unreadable { .. } => 66,
            Self::EmptyGroup(_) | Self::Unavailable { .. } => 69,
            Self::Listen { .. } | Self::Source { .. } | Self::System { .. } => 71,
            Self::Control { exit_code, .. } => *exit_code,
            Self::NoUser(_) => 67,
            Self::Forbidden { .. } | Self::Become { .. } => 77,
        }
    }
}
