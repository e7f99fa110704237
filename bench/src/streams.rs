//! Streams that send and discard bytes without end, for both ends of a bulk transfer.
//!
//! The kernel discards received bytes (MSG_TRUNC), because the cost of the receiving process is not
//! measured.
//!
//! Invariant: every ready stream gets one system call in each direction before any stream gets the
//! next, so no stream starves.

use std::{
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, event::Event, net::TcpStream};
use nix::sys::socket::{MsgFlags, recv};
use slab::Slab;

/// Bytes per system call.
const CHUNK: usize = 256 * 1024;

/// The token of the listening socket.
pub(crate) const LISTENER: Token = Token(usize::MAX);

/// All streams of one end, with byte counts.
pub(crate) struct Streams {
    slab: Slab<Stream>,
    chunk: Vec<u8>,
    /// Bytes written to the sockets.
    pub(crate) sent: u64,
    /// Bytes read from the sockets.
    pub(crate) received: u64,
}

struct Stream {
    socket: TcpStream,
    sends: bool,
    receives: bool,
    /// The last known state: edge-triggered events set these flags, short calls clear them.
    writable: bool,
    readable: bool,
}

impl Streams {
    /// Starts without streams.
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), chunk: vec![b'b'; CHUNK], sent: 0, received: 0 }
    }

    /// Returns the number of streams.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Adds a stream, connected or connecting. `sends` and `receives` are the directions to use.
    pub(crate) fn add(
        &mut self,
        registry: &Registry,
        mut socket: TcpStream,
        (sends, receives): (bool, bool),
    ) -> io::Result<()> {
        let entry = self.slab.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(entry.key()), interest)?;
        entry.insert(Stream { socket, sends, receives, writable: false, readable: false });
        Ok(())
    }

    /// Stores the readiness that an event reports.
    pub(crate) fn record_event(&mut self, event: &Event) {
        if let Some(stream) = self.slab.get_mut(event.token().0) {
            stream.writable |= event.is_writable() && stream.sends;
            stream.readable |= event.is_readable() && stream.receives;
            // A stream that neither sends nor receives still detects the end of the connection.
            if event.is_error() || event.is_write_closed() {
                stream.readable = true;
            }
        }
    }

    /// Waits for events and transfers on every ready stream. Drops the streams that have ended, and
    /// returns their number and whether [`LISTENER`] is ready.
    pub(crate) fn poll(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<(usize, bool)> {
        let busy = self.slab.iter().any(|(_, stream)| stream.writable || stream.readable);
        let timeout = if busy { Some(Duration::ZERO) } else { timeout };
        match poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok((0, false)),
            other => other?,
        }
        let mut listener_ready = false;
        for event in &*events {
            match event.token() {
                LISTENER => listener_ready = true,
                _ => self.record_event(event),
            }
        }
        let before = self.slab.len();
        let Self { slab, chunk, sent, received } = self;
        slab.retain(|_, stream| stream.transfer(chunk, sent, received).is_ok());
        Ok((before - self.slab.len(), listener_ready))
    }
}

impl Stream {
    fn transfer(&mut self, chunk: &mut [u8], sent: &mut u64, received: &mut u64) -> io::Result<()> {
        if self.writable {
            match self.socket.write(chunk) {
                // A short write means that the socket is full.
                Ok(written) => {
                    *sent += written as u64;
                    self.writable = written == chunk.len();
                }
                Err(error) if would_block(&error) => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.readable {
            match recv(self.socket.as_raw_fd(), chunk, MsgFlags::MSG_TRUNC) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // A short read means that the socket is empty.
                Ok(read) => {
                    *received += read as u64;
                    self.readable = read == chunk.len();
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => self.readable = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Returns true for an error that an event will resolve, which is not the end of the stream.
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
