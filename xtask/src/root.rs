//! Acting as root: for packages, and for balance, whose kernel datapath needs it.
//!
//! Invariant: nobody is asked for a password by a task that promised not to, or where nobody
//! is there to type it.

use std::{
    ffi::OsStr,
    io::{IsTerminal as _, stdin},
    process::{Command, Stdio},
};

use nix::unistd::geteuid;

/// How a command of ours can be run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are root.
    Already,
    /// Through sudo.
    Sudo,
    /// Not at all: the command runs as the user we are.
    Never,
}

impl Root {
    /// Finds the way, which may ask for a password if somebody sits at the terminal.
    pub(crate) fn find() -> Self {
        match Self::find_silently() {
            Self::Never if stdin().is_terminal() && which::which("sudo").is_ok() => Self::Sudo,
            found => found,
        }
    }

    /// Finds a way that asks for no password.
    pub(crate) fn find_silently() -> Self {
        if geteuid().is_root() {
            return Self::Already;
        }
        let sudo = Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match sudo {
            Ok(status) if status.success() => Self::Sudo,
            _ => Self::Never,
        }
    }

    /// The program, to be run this way.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Already | Self::Never => Command::new(program),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.arg("--").arg(program);
                sudo
            }
        }
    }
}
