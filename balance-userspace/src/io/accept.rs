//! Accepts clients: by operations in the worker's io_uring, or through the runtime's epoll on
//! kernels whose ring can end a pending accept only by a shutdown of the listener.
//!
//! Invariants: a listener is never shut down, because another process may listen on the same
//! socket. No connection that the kernel has accepted is lost.

use std::{io, os::fd::OwnedFd, rc::Rc};

use socket2::Socket;
use tokio::{io::unix::AsyncFd, select};
use tokio_util::sync::CancellationToken;

use crate::io::{
    epoll::{self, Registered},
    ring,
};

/// A listener of one worker.
pub(crate) struct Listener {
    socket: Rc<Socket>,
    poller: Poller,
}

/// How a listener waits for clients.
enum Poller {
    Ring,
    Epoll { ready: AsyncFd<Registered<Rc<Socket>>>, stop: CancellationToken },
}

impl Listener {
    /// Prepares a listener. Must be called inside the runtime of its worker.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        let socket = Rc::new(socket);
        let poller = if ring::can_cancel() {
            Poller::Ring
        } else {
            // Epoll waits for clients. `accept` itself must not block.
            socket.set_nonblocking(true)?;
            let ready = epoll::register(Rc::clone(&socket), tokio::io::Interest::READABLE)?;
            Poller::Epoll { ready, stop: CancellationToken::new() }
        };
        Ok(Self { socket, poller })
    }

    /// Accepts a connection. The future must run to completion: a connection that arrives for a
    /// dropped future could be lost. [`Listener::stop`] completes it.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let Poller::Epoll { ready, stop } = &self.poller else {
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

    /// Ends all pending accepts.
    pub(crate) async fn stop(&self) {
        match &self.poller {
            Poller::Ring => ring::cancel_accepts(&self.socket).await,
            Poller::Epoll { stop, .. } => stop.cancel(),
        }
    }
}
