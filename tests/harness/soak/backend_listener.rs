//! A listener: a backend's address, where somebody listens or not.
//!
//! Invariant: the port is the listener's all along, so that nobody else ever listens there.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::{Namespace, ReservedPort, listen};

/// A backend's address, and its listener if there is one.
#[derive(Debug)]
pub(super) struct BackendListener {
    port: ReservedPort,
    listener: Option<TcpListener>,
    /// Size of the buffers that it gives to connections.
    buffers: Option<u32>,
}

impl BackendListener {
    /// One that is closed, at any port of that address, which is one of the thread's host.
    pub(super) fn at(ip: IpAddr) -> Self {
        Self { port: ReservedPort::at(ip), listener: None, buffers: None }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Lets it listen; `host` is where it is, if that is not ours.
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

    /// Lets nobody in any more, and breaks off those who are waiting.
    pub(super) fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            // A program that is just being started by another thread may still have a copy.
            SockRef::from(&listener).shutdown(Shutdown::Both).expect("shutdown");
        }
    }

    /// A connection that has arrived, if one has by then.
    pub(super) fn accept(&self, long: Duration) -> Option<TcpStream> {
        if !self.is_called(long) {
            return None;
        }
        match self.listener.as_ref()?.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if gone(&error) => None,
            Err(error) => panic!("accepting at {}: {error}", self.address()),
        }
    }

    /// Waits until a connection has arrived, at most so long.
    pub(super) fn is_called(&self, long: Duration) -> bool {
        let Some(listener) = &self.listener else { return false };
        let mut listeners = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait has found nothing.
        poll(&mut listeners, PollTimeout::try_from(long).expect("a short time")) == Ok(1)
    }
}

/// Nothing, or something that went away again.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted)
}

/// Does something on a host, ours if none is given.
pub(super) fn on<T: Send>(host: Option<&Namespace>, act: impl FnOnce() -> T + Send) -> T {
    match host {
        None => act(),
        Some(host) => host.enter(act),
    }
}

/// Sets the size of both buffers, if one is given.
pub(super) fn set_buffers<'s>(socket: impl Into<SockRef<'s>>, size: Option<u32>) {
    if let Some(size) = size {
        let socket = socket.into();
        socket.set_recv_buffer_size(size as usize).expect("SO_RCVBUF");
        socket.set_send_buffer_size(size as usize).expect("SO_SNDBUF");
    }
}
