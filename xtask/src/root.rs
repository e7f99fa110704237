//! Running commands as root: to install packages, and to run balance with the datapaths in the
//! kernel.
//!
//! Invariant: no password prompt appears in a task that excludes prompts, or without a terminal.

use std::{
    ffi::OsStr,
    io::{IsTerminal as _, stdin},
    process::{Command, Stdio},
};

use nix::unistd::geteuid;

/// How to run a command as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// This process is root.
    Already,
    /// With sudo.
    Sudo,
    /// Not possible: the command runs as the current user.
    Never,
}

impl Root {
    /// Finds out how, and may prompt for a password on a terminal.
    pub(crate) fn find() -> Self {
        match Self::find_silently() {
            Self::Never if stdin().is_terminal() && which::which("sudo").is_ok() => Self::Sudo,
            found => found,
        }
    }

    /// Finds a way that needs no password.
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

    /// Returns a command that runs the program this way.
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
