//! The user and the capabilities of the process, and look-ups of users and groups.
//!
//! Invariants: after [`become_user`] the process has the capabilities that its datapath needs and
//! no others, and can regain none. The change is made while the process has one thread, because
//! capabilities belong to threads.

use std::io;

pub(crate) use caps::Capability;
use caps::{CapSet, CapsHashSet};
use nix::{
    sys::prctl,
    unistd::{self, Gid, Group, Uid, User},
};

use crate::error::StartError;

/// Looks up a user by name.
///
/// # Errors
/// [`StartError::NoUser`]; [`StartError::System`] if the user database cannot be read.
pub(crate) fn find(name: &str) -> Result<User, StartError> {
    let system = |e: nix::Error| StartError::System { act: "look up a user", source: e.into() };
    User::from_name(name).map_err(system)?.ok_or_else(|| StartError::NoUser(name.to_owned()))
}

/// Looks up a group by name or number. As for chown(1), a number needs no entry in the database,
/// and a group whose name is a number goes first.
///
/// # Errors
/// [`StartError::NoGroup`]; [`StartError::System`] if the group database cannot be read.
pub(crate) fn find_group(text: &str) -> Result<Gid, StartError> {
    let system = |e: nix::Error| StartError::System { act: "look up a group", source: e.into() };
    if let Some(group) = Group::from_name(text).map_err(system)? {
        return Ok(group.gid);
    }
    // The largest number means "unchanged" in chown(2).
    let number = text.parse().ok().filter(|&number| number != u32::MAX);
    number.map(Gid::from_raw).ok_or_else(|| StartError::NoGroup(text.to_owned()))
}

/// Changes the process to `user` with the capabilities `keep`. A process that already runs as that
/// user keeps the capabilities of `keep` that it has.
///
/// # Errors
/// [`StartError::Become`]; only root can change to another user.
pub(crate) fn become_user(user: &User, keep: &[Capability]) -> Result<(), StartError> {
    let failed = |source| StartError::Become { user: user.name.clone(), source };
    let keep = keep.iter().copied().collect();
    let has_user = Uid::effective() == user.uid && !Uid::effective().is_root();
    let done = if has_user { lower(&keep) } else { change(user, &keep) };
    done.map_err(failed)
}

fn change(user: &User, keep: &CapsHashSet) -> io::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str())?;
    prctl::set_keepcaps(true)?;
    unistd::initgroups(&name, user.gid)?;
    unistd::setresgid(user.gid, user.gid, user.gid)?;
    unistd::setresuid(user.uid, user.uid, user.uid)?;
    // Lowering the bounding set needs this capability.
    set(CapSet::Effective, &[Capability::CAP_SETPCAP].into())?;
    for capability in read(CapSet::Bounding)?.difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    keep_only(keep)
}

/// Leaves the bounding set as it is: lowering it needs CAP_SETPCAP, and no new privileges can be
/// gained through it ([`keep_only`]).
fn lower(keep: &CapsHashSet) -> io::Result<()> {
    keep_only(&read(CapSet::Permitted)?.intersection(keep).copied().collect())
}

fn keep_only(keep: &CapsHashSet) -> io::Result<()> {
    // Removing a capability from the inheritable set also removes it from the ambient set.
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Effective, keep)?;
    set(CapSet::Permitted, keep)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Whether the calling thread has a capability in its effective set.
pub(crate) fn has_capability(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn read(which: CapSet) -> io::Result<CapsHashSet> {
    caps::read(None, which).map_err(io::Error::other)
}

fn set(which: CapSet, capabilities: &CapsHashSet) -> io::Result<()> {
    caps::set(None, which, capabilities).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_name_or_a_number() {
        assert_eq!(find_group("root").unwrap(), Gid::from_raw(0));
        assert_eq!(find_group("4711000").unwrap(), Gid::from_raw(4_711_000));
        for text in ["nosuchgroup", "-1", "4294967295", ""] {
            let error = find_group(text).unwrap_err();
            assert_eq!(
                (error.to_string(), error.exit_code()),
                (format!("there is no group {text}"), 67)
            );
        }
    }
}
