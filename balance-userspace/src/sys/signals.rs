//! Signals, as what they ask for.
//!
//! Invariants: the same for an instance and for the supervisor of many; a signal that asks for nothing
//! does no harm; every process of the program begins with [`reset`], whatever its parent blocked or ignored.

use std::{io, task::Poll};

use nix::sys::signal::{self as sys, SigHandler, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Undoes what a parent did to the signals that the program relies on. To be called first, while the process
/// has one thread: later threads inherit its mask.
///
/// - Blocked signals: none. Otherwise SIGTERM and SIGINT never arrive.
/// - SIGTERM: as usual until it is caught, so that every process can be ended.
/// - SIGCHLD: as usual. Where it is ignored the kernel reaps children, and their exit codes are lost.
/// - SIGHUP, SIGINT, SIGQUIT: left as they are. nohup(1), or a shell for its background commands, ignores them,
///   which a verb respects; a process that serves catches them.
/// - SIGPIPE: ignored by Rust's runtime, which restores it in the programs that it starts.
pub fn reset() {
    for signal in [sys::Signal::SIGTERM, sys::Signal::SIGCHLD] {
        // SAFETY: no handler is installed, so no code runs on a signal; none was installed before, as an exec
        // keeps none.
        let result = unsafe { sys::signal(signal, SigHandler::SigDfl) };
        debug_assert!(result.is_ok(), "only an unknown signal is refused");
    }
    let result = SigSet::empty().thread_set_mask();
    debug_assert!(result.is_ok(), "only an unknown way to change the mask is refused");
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// Accept no more, and end when what stands has ended (SIGTERM).
    Drain,
    /// End at once (SIGINT, SIGQUIT).
    End,
    /// Read anew what may have changed (SIGHUP).
    Reload,
}

/// The signals that the process takes.
pub(crate) struct Signals {
    taken: [(Signal, SignalAction); 4],
    /// Kept so that the signal does no harm: the classic's clients send it.
    _usr1: Signal,
}

impl Signals {
    /// Takes hold of them. Within a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        let taken = [
            (signal(SignalKind::terminate())?, SignalAction::Drain),
            (signal(SignalKind::interrupt())?, SignalAction::End),
            (signal(SignalKind::quit())?, SignalAction::End),
            (signal(SignalKind::hangup())?, SignalAction::Reload),
        ];
        Ok(Self { taken, _usr1: signal(SignalKind::user_defined1())? })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) -> SignalAction {
        std::future::poll_fn(|context| {
            // Up to the first that has come: only then none has to wake us.
            for (signal, action) in &mut self.taken {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*action);
                }
            }
            Poll::Pending
        })
        .await
    }
}
