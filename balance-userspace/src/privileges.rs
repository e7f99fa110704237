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

/// Makes the process that user's, with these capabilities.
///
/// # Errors
/// [`StartError::Become`], as only root can do that.
pub(crate) fn become_user(user: &User, keep: &[Capability]) -> Result<(), StartError> {
    let failed = |source| StartError::Become { user: user.name.clone(), source };
    let is_ours = Uid::effective() == user.uid && !Uid::effective().is_root();
    if is_ours {
        return Ok(());
    }
    change(user, keep).map_err(failed)
}

fn change(user: &User, keep: &[Capability]) -> io::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str())?;
    prctl::set_keepcaps(true)?;
    unistd::initgroups(&name, user.gid)?;
    unistd::setresgid(user.gid, user.gid, user.gid)?;
    unistd::setresuid(user.uid, user.uid, user.uid)?;
    let keep: CapsHashSet = keep.iter().copied().collect();
    let set = |which, of: &CapsHashSet| caps::set(None, which, of).map_err(io::Error::other);
    // The one that it takes to lower the bound.
    set(CapSet::Effective, &[Capability::CAP_SETPCAP].into())?;
    let bound = caps::read(None, CapSet::Bounding).map_err(io::Error::other)?;
    for capability in bound.difference(&keep) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Effective, &keep)?;
    set(CapSet::Permitted, &keep)?;
    prctl::set_no_new_privs()?;
    Ok(())
}
