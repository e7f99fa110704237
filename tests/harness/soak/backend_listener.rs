//! A backend's address whose listener opens and closes.
//!
//! Invariant: the port stays reserved, so no other process ever listens on it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::{Namespace, ReservedPort, listen};

/// A backend's address, and its listener while it is open.
#[derive(Debug)]
pub(super) struct BackendListener {
    port: ReservedPort,
    listener: Option<TcpListener>,
    /// Buffer size of accepted connections.
    buffers: Option<u32>,
}

impl BackendListener {
    /// A closed listener on a reserved port of `ip`, an address of the thread's network namespace.
    pub(super) fn at(ip: IpAddr) -> Self {
        Self { port: ReservedPort::at(ip), listener: None, buffers: None }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Opens the listener in the namespace `host`, or in the thread's own.
    pub(super) fn open(&mut self, buffers: Option<u32>, host: Option<&Namespace>) {
        if self.listener.is_some() && self.buffers == buffers {
            return;
        }
        self.close();
        let listener = on(host, || listen(self.port.address()));
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        set_buffers(&listener, buffers);
        (self.listener, self.buffers) = (Some(listener), buffers);
    }

    /// Closes the listener and resets the connections in its queue.
    pub(super) fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            // Another thread may be starting a program, whose process briefly holds a copy of the
            // descriptor.
            SockRef::from(&listener).shutdown(Shutdown::Both).expect("shutdown");
        }
    }

    /// Accepts a connection that arrives within `long`.
    pub(super) fn accept(&self, long: Duration) -> Option<TcpStream> {
        if !self.wait_for_connection(long) {
            return None;
        }
        match self.listener.as_ref()?.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if gone(&error) => None,
            Err(error) => panic!("accepting at {}: {error}", self.address()),
        }
    }

    /// Waits up to `long` for a connection to arrive.
    pub(super) fn wait_for_connection(&self, long: Duration) -> bool {
        let Some(listener) = &self.listener else { return false };
        let mut listeners = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait returns no events.
        poll(&mut listeners, PollTimeout::try_from(long).expect("a short time")) == Ok(1)
    }
}

/// Whether there is no connection, or the connection has been aborted.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted)
}

/// Runs `act` in a namespace, or in the thread's own.
pub(super) fn on<T: Send>(host: Option<&Namespace>, act: impl FnOnce() -> T + Send) -> T {
    match host {
        None => act(),
        Some(host) => host.enter(act),
    }
}

/// Sets the size of both buffers, if given.
pub(super) fn set_buffers<'s>(socket: impl Into<SockRef<'s>>, size: Option<u32>) {
    if let Some(size) = size {
        let socket = socket.into();
        socket.set_recv_buffer_size(size as usize).expect("SO_RCVBUF");
        socket.set_send_buffer_size(size as usize).expect("SO_SNDBUF");
    }
}
