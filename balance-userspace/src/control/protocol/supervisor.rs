//! Commands that a supervisor takes, and its replies.
//!
//! Invariant: every command acts on all instances of the configuration file.

use serde::{Deserialize, Serialize};

use super::{ControlCommand, ControlReply, SupervisorStatus};

/// A command for a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorCommand {
    /// The state of all instances. Answered by [`SupervisorReply::Instances`].
    Instances,
    /// Read the configuration file again and apply its changes. Answered by
    /// [`SupervisorReply::Reloaded`], [`SupervisorReply::PartlyReloaded`] or
    /// [`SupervisorReply::InvalidFile`].
    Reload,
    /// Execute the program on the disk in place of the supervisor. That ends the connection: the
    /// client then asks for [`SupervisorCommand::Takeover`]. If the new program cannot be executed
    /// the answer is [`SupervisorReply::PartlyReloaded`] or [`SupervisorReply::Refused`].
    Upgrade,
    /// The outcome of the takeover from the supervisor before. Answered like a reload, or by
    /// [`SupervisorReply::Refused`].
    Takeover,
    /// End all instances, each within its grace time, and the supervisor.
    Stop,
    /// End all instances as `Stop` does, and start them in the same supervisor process.
    Restart,
}

impl ControlCommand for SupervisorCommand {
    type Reply = SupervisorReply;

    fn has_no_time_limit(&self) -> bool {
        matches!(self, Self::Reload | Self::Upgrade | Self::Takeover)
    }

    fn is_read_only(&self) -> bool {
        match self {
            Self::Instances | Self::Takeover => true,
            Self::Reload | Self::Upgrade | Self::Stop | Self::Restart => false,
        }
    }
}

/// The reply of a supervisor. `Stop` and `Restart` are answered by `Done` or `Already`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorReply {
    /// The supervisor and all its instances.
    Instances(SupervisorStatus),
    /// A reload has applied every change.
    Reloaded {
        /// A line for each change.
        changed: Vec<String>,
        /// A line for each instance that control commands have changed.
        differences: Vec<String>,
    },
    /// A reload has applied some changes.
    PartlyReloaded {
        /// A line for each applied change.
        changed: Vec<String>,
        /// A line for each instance that control commands have changed.
        differences: Vec<String>,
        /// A line for each change that failed.
        failed: Vec<String>,
        /// The exit code for the first failure.
        code: u8,
    },
    /// The configuration file is invalid, so nothing was changed; a line for each mistake.
    InvalidFile(Vec<String>),
    /// The supervisor stops.
    Done,
    /// The supervisor was already stopping.
    Already,
    /// The request is rejected; the reason.
    Refused(String),
}

impl ControlReply for SupervisorReply {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_reads_or_changes() {
        for (command, reads) in [
            (SupervisorCommand::Instances, true),
            (SupervisorCommand::Reload, false),
            (SupervisorCommand::Upgrade, false),
            (SupervisorCommand::Takeover, true),
            (SupervisorCommand::Stop, false),
            (SupervisorCommand::Restart, false),
        ] {
            assert_eq!(command.is_read_only(), reads, "{command:?}");
        }
    }
}
