//! Signals, as what they ask for.
//!
//! Invariant: the same for an instance and for the supervisor of many; a signal that asks for nothing
//! does no harm.

use std::{io, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Accept no more, and end when what stands has ended (SIGTERM).
    Drain,
    /// End at once (SIGINT, SIGQUIT).
    End,
    /// Read anew what may have changed (SIGHUP).
    Reload,
}

/// The signals that the process takes.
pub(crate) struct Signals {
    taken: [(Signal, Wish); 4],
    /// Kept so that the signal does no harm: the classic's clients send it.
    _usr1: Signal,
}

impl Signals {
    /// Takes hold of them. Within a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        let taken = [
            (signal(SignalKind::terminate())?, Wish::Drain),
            (signal(SignalKind::interrupt())?, Wish::End),
            (signal(SignalKind::quit())?, Wish::End),
            (signal(SignalKind::hangup())?, Wish::Reload),
        ];
        Ok(Self { taken, _usr1: signal(SignalKind::user_defined1())? })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) -> Wish {
        std::future::poll_fn(|context| {
            // Up to the first that has come: only then none has to wake us.
            for (signal, wish) in &mut self.taken {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*wish);
                }
            }
            Poll::Pending
        })
        .await
    }
}
