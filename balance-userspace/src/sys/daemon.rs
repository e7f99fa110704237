//! Going to the background: a daemon of its own session whose start the caller sees to its end.
//!
//! Invariant: the process that the user started ends only when the daemon serves, with the exit code
//! that it then says, or has failed, with the daemon's exit code; the daemon keeps the terminal's standard error
//! until then.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::UnixStream,
    },
};

use crate::{error::StartError, sys};

/// Which of the two processes this is.
pub enum Forked {
    /// The one that the user started: it has only to exit with this.
    Parent(u8),
    /// The daemon, which has yet to say that it serves.
    Daemon(ReadyNotifier),
}

/// The daemon's promise to say when it serves.
pub struct ReadyNotifier {
    starter: UnixStream,
}

/// Splits the process in two.
///
/// # Safety
/// The process must have one thread.
///
/// # Errors
/// [`StartError::System`].
pub unsafe fn detach() -> Result<Forked, StartError> {
    let failed = |source| StartError::System { act: "go to the background", source };
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    // SAFETY: as the caller promises.
    match unsafe { sys::fork() }.map_err(failed)? {
        Some(child) => {
            drop(theirs);
            // Ends without a byte when the daemon ends first.
            let mut said = [0];
            let served = ours.read(&mut said).is_ok_and(|n| n == 1);
            let code = if served { said[0] } else { sys::wait(child).map_err(failed)? };
            Ok(Forked::Parent(code))
        }
        None => {
            drop(ours);
            sys::new_session().map_err(failed)?;
            std::env::set_current_dir("/").map_err(failed)?;
            Ok(Forked::Daemon(ReadyNotifier { starter: theirs }))
        }
    }
}

impl ReadyNotifier {
    /// Lets go of the terminal and tells the starter to end with this code.
    ///
    /// # Errors
    /// When /dev/null cannot be opened.
    pub fn notify(mut self, code: u8) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for standard in 0..3 {
            sys::replace(null.as_fd(), standard)?;
        }
        debug_assert!(null.as_raw_fd() > 2);
        // The starter may be gone: nobody is left to be told.
        let _ = self.starter.write_all(&[code]);
        Ok(())
    }
}
