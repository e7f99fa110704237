//! Registration of a descriptor with the epoll instance of the thread's runtime.
//!
//! Invariant: a registration ends before its descriptor is closed, because it owns the object that
//! the descriptor belongs to.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers the descriptor of `owner` until the result is dropped. A descriptor can have one
/// registration at a time.
///
/// # Errors
/// When the kernel has no memory.
pub(crate) fn register<T: AsFd>(
    owner: T,
    interest: Interest,
) -> io::Result<AsyncFd<Registered<T>>> {
    // SAFETY: the result owns `owner`, which keeps its descriptor open and the same.
    Ok(unsafe { AsyncFd::register_with_interest(Registered(owner), interest) }?)
}

/// The owner of a registered descriptor.
#[derive(Debug)]
pub(crate) struct Registered<T>(T);

impl<T: AsFd> AsRawFd for Registered<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
