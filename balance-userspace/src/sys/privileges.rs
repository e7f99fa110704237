//! Another user than root, once nothing is left to do that only root can.
//!
//! Invariants: what is kept is what the datapath goes on to need and no more; nothing can be gained
//! again; it is done while the process has one thread, because each thread has capabilities of its own.

use std::io;

pub(crate) use caps::Capability;
use caps::{CapSet, CapsHashSet};
use nix::{
    sys::prctl,
    unistd::{self, Uid, User},
};

use crate::error::StartError;

/// The user of a name.
///
/// # Errors
/// [`StartError::NoUser`]; [`StartError::System`] when it cannot be looked up.
pub(crate) fn find(name: &str) -> Result<User, StartError> {
    let system = |e: nix::Error| StartError::System { act: "look a user up", source: e.into() };
    User::from_name(name).map_err(system)?.ok_or_else(|| StartError::NoUser(name.to_owned()))
}

/// Makes the process that user's, with these capabilities; with those of them that it has where it is
/// that user's already.
///
/// # Errors
/// [`StartError::Become`], as only root can become another.
pub(crate) fn become_user(user: &User, keep: &[Capability]) -> Result<(), StartError> {
    let failed = |source| StartError::Become { user: user.name.clone(), source };
    let keep = keep.iter().copied().collect();
    let is_ours = Uid::effective() == user.uid && !Uid::effective().is_root();
    let done = if is_ours { lower(&keep) } else { change(user, &keep) };
    done.map_err(failed)
}

fn change(user: &User, keep: &CapsHashSet) -> io::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str())?;
    prctl::set_keepcaps(true)?;
    unistd::initgroups(&name, user.gid)?;
    unistd::setresgid(user.gid, user.gid, user.gid)?;
    unistd::setresuid(user.uid, user.uid, user.uid)?;
    // The one that it takes to lower the bound.
    set(CapSet::Effective, &[Capability::CAP_SETPCAP].into())?;
    for capability in read(CapSet::Bounding)?.difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    keep_only(keep)
}

/// The bound stays where it is: whoever may not lower it gains nothing by it any more.
fn lower(keep: &CapsHashSet) -> io::Result<()> {
    keep_only(&read(CapSet::Permitted)?.intersection(keep).copied().collect())
}

fn keep_only(keep: &CapsHashSet) -> io::Result<()> {
    // What is ambient goes with what is inheritable.
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Effective, keep)?;
    set(CapSet::Permitted, keep)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

fn read(which: CapSet) -> io::Result<CapsHashSet> {
    caps::read(None, which).map_err(io::Error::other)
}

fn set(which: CapSet, of: &CapsHashSet) -> io::Result<()> {
    caps::set(None, which, of).map_err(io::Error::other)
}
