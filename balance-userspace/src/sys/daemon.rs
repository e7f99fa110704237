//! Runs the program as a daemon. The process that the user started waits for the start.
//!
//! Invariant: the process that the user started ends as soon as the daemon is ready or has ended.
//! Its exit code is the code that a ready daemon reports, or the exit code of the ended daemon.
//! Until then the daemon keeps the terminal as its standard error.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid},
};

use crate::error::StartError;

/// EX_SOFTWARE of sysexits(3): a signal has ended the daemon.
const KILLED: u8 = 70;

/// The process in which [`detach`] returns.
pub enum Forked {
    /// The process that the user started. It must exit with this code.
    Parent(u8),
    /// The daemon. It must call the notifier once it is ready.
    Daemon(ReadyNotifier),
}

/// Ends the process that the user started.
pub struct ReadyNotifier {
    parent: UnixStream,
}

/// Forks the daemon. Returns in the daemon at once, and in the parent when the daemon is ready or
/// has ended.
///
/// # Safety
/// The process must have one thread: a lock that another thread holds is never released in the
/// child.
///
/// # Errors
/// [`StartError::System`].
pub unsafe fn detach() -> Result<Forked, StartError> {
    let failed = |source| StartError::System { act: "go to the background", source };
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    // SAFETY: there is one thread, as the caller promises, and this thread holds no lock.
    match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
        ForkResult::Parent { child } => {
            drop(theirs);
            // The stream ends without a byte if the daemon ends first.
            let mut code = [0];
            let is_ready = ours.read(&mut code).is_ok_and(|n| n == 1);
            let code = if is_ready { code[0] } else { wait(child).map_err(failed)? };
            Ok(Forked::Parent(code))
        }
        ForkResult::Child => {
            drop(ours);
            setsid().map_err(|errno| failed(errno.into()))?;
            std::env::set_current_dir("/").map_err(failed)?;
            Ok(Forked::Daemon(ReadyNotifier { parent: theirs }))
        }
    }
}

/// Waits until a child ends, and returns its exit code.
fn wait(child: Pid) -> io::Result<u8> {
    Ok(match waitpid(child, None)? {
        WaitStatus::Exited(_, code) => code as u8,
        _ => KILLED,
    })
}

impl ReadyNotifier {
    /// Closes the terminal's streams and has the parent exit with `code`.
    ///
    /// # Errors
    /// /dev/null cannot be opened.
    pub fn notify(mut self, code: u8) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        // The write fails if the parent has been killed.
        let _ = self.parent.write_all(&[code]);
        Ok(())
    }
}
