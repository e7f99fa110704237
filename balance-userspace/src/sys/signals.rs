//! The signals of the process and the actions they request.
//!
//! Invariants: signals mean the same to an instance and to the supervisor. A signal without an
//! action does no harm. Every process of the program first calls [`reset`] and [`unblock`], whatever
//! its parent has blocked or ignored. A program that continues the work of another one unblocks the
//! signals only when it catches them.

use std::{io, task::Poll};

use nix::sys::signal::{self as sys, SigHandler, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Restores the actions of the signals that the program relies on. Call this first.
///
/// - SIGTERM: default action until it is caught, so that every process can be ended.
/// - SIGCHLD: default action. If it is ignored the kernel reaps children and their exit codes are
///   lost.
/// - SIGHUP, SIGINT, SIGQUIT: unchanged. nohup(1), or a shell for its background commands, ignores
///   them, and the verbs respect that; a process that serves catches these signals.
/// - SIGPIPE: ignored by Rust's runtime, which restores it in the programs that it starts.
pub fn reset() {
    for signal in [sys::Signal::SIGTERM, sys::Signal::SIGCHLD] {
        // SAFETY: the call installs no handler, so no code runs on a signal. It replaces none,
        // because exec keeps no handler.
        let result = unsafe { sys::signal(signal, SigHandler::SigDfl) };
        debug_assert!(result.is_ok(), "the kernel refuses only an unknown signal");
    }
}

/// Unblocks all signals. Otherwise SIGTERM and SIGINT would never arrive. Call this while the process
/// has one thread: new threads inherit the signal mask.
pub fn unblock() {
    let result = SigSet::empty().thread_set_mask();
    debug_assert!(result.is_ok(), "the kernel refuses only an unknown operation");
}

/// Blocks all signals, so that the program that this process executes next gets those that arrive
/// meanwhile.
pub(crate) fn block() {
    let result = SigSet::all().thread_set_mask();
    debug_assert!(result.is_ok(), "the kernel refuses only an unknown operation");
}

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// Stop accepting, and exit when the open connections have ended (SIGTERM).
    Drain,
    /// Abort the open connections and exit (SIGINT, SIGQUIT).
    Abort,
    /// Read the configuration file again, or resolve names again (SIGHUP).
    Reload,
    /// Execute the program on the disk in place of the supervisor (SIGUSR2).
    Upgrade,
}

/// The signals that the process catches.
pub(crate) struct Signals {
    caught: [(Signal, SignalAction); 5],
    /// Caught so that the signal does no harm: clients of the classic send it.
    _usr1: Signal,
}

impl Signals {
    /// Catches the signals. Must be called within a Tokio runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        let caught = [
            (signal(SignalKind::terminate())?, SignalAction::Drain),
            (signal(SignalKind::interrupt())?, SignalAction::Abort),
            (signal(SignalKind::quit())?, SignalAction::Abort),
            (signal(SignalKind::hangup())?, SignalAction::Reload),
            (signal(SignalKind::user_defined2())?, SignalAction::Upgrade),
        ];
        Ok(Self { caught, _usr1: signal(SignalKind::user_defined1())? })
    }

    /// Waits for the next signal with an action.
    pub(crate) async fn next(&mut self) -> SignalAction {
        std::future::poll_fn(|context| {
            // Stopping at the first signal that has arrived is safe: a pending signal needs no
            // waker.
            for (signal, action) in &mut self.caught {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*action);
                }
            }
            Poll::Pending
        })
        .await
    }
}
