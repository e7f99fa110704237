//! Limits, descriptors and identity of the process.
//!
//! Invariant: no function closes a descriptor.

use std::{ffi::CStr, io};

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, rlim_t, setrlimit},
    },
    unistd::Uid,
};

use super::raw;

/// Sets the name of the calling thread. ps(1) shows the name of the first thread as that of the
/// process.
pub(crate) fn set_name(name: &CStr) {
    // The name serves people only.
    let _ = prctl::set_name(name);
}

/// Raises the soft limit of open files (RLIMIT_NOFILE) to the hard limit, and returns the limit.
pub(crate) fn raise_open_file_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The hard limit of open files (RLIMIT_NOFILE).
pub(crate) fn open_file_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// Removes the limit of locked memory (RLIMIT_MEMLOCK). Kernels before 5.11 charge BPF maps to that
/// limit.
pub(crate) fn lift_locked_memory_limit() {
    const UNLIMITED: rlim_t = libc::RLIM_INFINITY;
    // If the limit stays and matters, the creation of a map fails.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, UNLIMITED, UNLIMITED);
}

/// The number of open descriptors of the process below `limit`.
///
/// The count comes from poll(2) and not from /proc, which a process that has changed its user may
/// not read.
pub(crate) fn open_descriptors(limit: usize) -> usize {
    // The kernel gives out the lowest free number, so higher numbers are open only if these all
    // are.
    const MOST: usize = 1 << 14;
    let entry = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut entries: Vec<_> = (0..limit.min(MOST) as i32).map(entry).collect();
    // poll(2) refuses more entries than the limit of open files, which may be lower by now.
    let has_result = raw::poll_now(&mut entries).is_ok();
    let is_open = |entry: &&libc::pollfd| has_result && entry.revents & libc::POLLNVAL == 0;
    entries.iter().filter(is_open).count()
}

/// The effective user id of the process.
pub(crate) fn effective_user() -> u32 {
    Uid::effective().as_raw()
}

/// Has all descriptors from `first` on closed in the programs that this process executes. Before
/// Linux 5.11 inherited descriptors stay open.
pub(crate) fn close_on_exec_from(first: i32) {
    let _ = raw::close_range_on_exec(first);
}
