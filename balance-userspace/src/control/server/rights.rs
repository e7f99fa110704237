//! What a control client may do, by the user of its process.
//!
//! Pure. Invariant: only root and the owner of the serving process may change anything, whatever
//! the mode of the socket is.

use crate::control::protocol::ControlCommand;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Every command.
    Change,
    /// The commands that only read.
    Read,
    /// No command.
    Nothing,
}

/// The rule of a control socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessRule {
    /// The user of the serving process.
    pub(super) owner: u32,
    /// The socket has a group (`--control-group`). The mode of the socket keeps all others out.
    pub(super) has_readers: bool,
}

impl AccessRule {
    /// The rights of a client, by the user that the kernel reports.
    pub(super) fn rights(self, user: u32) -> Rights {
        match user {
            0 => Rights::Change,
            user if user == self.owner => Rights::Change,
            _ if self.has_readers => Rights::Read,
            _ => Rights::Nothing,
        }
    }
}

impl Rights {
    /// Whether a client with these rights may give a command.
    pub(super) fn allow(self, command: &impl ControlCommand) -> bool {
        match self {
            Self::Change => true,
            Self::Read => command.is_read_only(),
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{InstanceCommand, SupervisorCommand};

    #[test]
    fn only_root_and_the_owner_change_and_others_read_if_the_socket_has_a_group() {
        let rights = |owner, has_readers, user| AccessRule { owner, has_readers }.rights(user);
        for has_readers in [false, true] {
            assert_eq!(rights(33, has_readers, 0), Rights::Change);
            assert_eq!(rights(33, has_readers, 33), Rights::Change);
        }
        for user in [1, 34, u32::MAX] {
            assert_eq!(rights(33, true, user), Rights::Read);
            assert_eq!(rights(0, true, user), Rights::Read);
            assert_eq!(rights(33, false, user), Rights::Nothing);
        }
    }

    #[test]
    fn rights_allow_the_commands_of_their_kind() {
        for (rights, show, kill) in [
            (Rights::Change, true, true),
            (Rights::Read, true, false),
            (Rights::Nothing, false, false),
        ] {
            assert_eq!(rights.allow(&InstanceCommand::Show), show);
            assert_eq!(rights.allow(&InstanceCommand::Kill), kill);
            assert_eq!(rights.allow(&SupervisorCommand::Instances), show);
            assert_eq!(rights.allow(&SupervisorCommand::Stop), kill);
        }
    }
}
