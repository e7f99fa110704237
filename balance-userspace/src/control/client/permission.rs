//! Messages that name the users of a control socket.
//!
//! Invariant: a user or a group without a name is named by its number.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::unistd::{Gid, Group, Uid, User};

/// The mode bit that lets the group of a socket connect.
const GROUP_MAY_CONNECT: u32 = 0o020;

/// Root and this user.
pub(super) fn root_and(user: u32) -> String {
    enumerate(user, None)
}

/// Names the users of a socket to which the user of this process may not connect.
pub(super) fn to_connect(socket: &Path) -> String {
    let found = fs::symlink_metadata(socket).ok().filter(|found| found.file_type().is_socket());
    match found {
        Some(found) => {
            let group = (found.mode() & GROUP_MAY_CONNECT != 0).then(|| found.gid());
            format!("only {} may connect to {}", enumerate(found.uid(), group), socket.display())
        }
        None => format!("cannot connect to {}", socket.display()),
    }
}

fn enumerate(user: u32, group: Option<u32>) -> String {
    let user = (user != 0).then(|| format!("user {}", user_name(user)));
    let group = group.map(|group| format!("members of group {}", group_name(group)));
    match (user, group) {
        (None, None) => "root".to_owned(),
        (Some(other), None) | (None, Some(other)) => format!("root and {other}"),
        (Some(user), Some(group)) => format!("root, {user} and {group}"),
    }
}

fn user_name(user: u32) -> String {
    let found = User::from_uid(Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| user.to_string(), |user| user.name)
}

fn group_name(group: u32) -> String {
    let found = Group::from_gid(Gid::from_raw(group)).ok().flatten();
    found.map_or_else(|| group.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_have_names_or_numbers() {
        assert_eq!(root_and(0), "root");
        assert_eq!(root_and(4_711_000), "root and user 4711000");
        assert_eq!(enumerate(0, Some(0)), "root and members of group root");
        let both = "root, user 4711000 and members of group 4711001";
        assert_eq!(enumerate(4_711_000, Some(4_711_001)), both);
        assert_eq!(to_connect(Path::new("/no/such")), "cannot connect to /no/such");
    }
}
