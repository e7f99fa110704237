//! Accepting clients: with operations that wait in the worker's io_uring, or through the runtime's
//! epoll on kernels whose ring can end such an operation only by shutting the listener down.
//!
//! Invariants: a listener is never shut down, because another process may listen there too; and
//! no connection that the kernel has handed out is lost.

use std::{io, os::fd::OwnedFd, rc::Rc};

use socket2::Socket;
use tokio::{io::unix::AsyncFd, select};
use tokio_util::sync::CancellationToken;

use crate::io::{
    ready::{self, Registered},
    ring,
};

/// A listener of a worker.
pub(crate) struct Listener {
    socket: Rc<Socket>,
    wait: Wait,
}

/// How a client is waited for.
enum Wait {
    Ring,
    Epoll { ready: AsyncFd<Registered<Rc<Socket>>>, stop: CancellationToken },
}

impl Listener {
    /// Prepares a listener for the worker whose runtime this is called in.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        let socket = Rc::new(socket);
        let wait = if ring::can_cancel() {
            Wait::Ring
        } else {
            // The ring would not wait on such a listener, but nobody waits there on this kernel.
            socket.set_nonblocking(true)?;
            let ready = ready::register(Rc::clone(&socket), tokio::io::Interest::READABLE)?;
            Wait::Epoll { ready, stop: CancellationToken::new() }
        };
        Ok(Self { socket, wait })
    }

    /// Accepts a connection. Must run to completion, which [`Listener::stop`] brings about: a
    /// connection that arrives for a dropped future could be lost.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let Wait::Epoll { ready, stop } = &self.wait else {
            return ring::accept(&self.socket).await;
        };
        loop {
            let mut guard = select! {
                biased;
                () = stop.cancelled() => return Err(io::ErrorKind::Interrupted.into()),
                guard = ready.readable() => guard?,
            };
            if let Ok(result) = guard.try_io(|_| self.socket.accept()) {
                return result.map(|(stream, _)| stream.into());
            }
        }
    }

    /// Ends all accepts that wait.
    pub(crate) async fn stop(&self) {
        match &self.wait {
            Wait::Ring => ring::cancel_accepts(&self.socket).await,
            Wait::Epoll { stop, .. } => stop.cancel(),
        }
    }
}
