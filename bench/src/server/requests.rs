//! The server of all loads except bulk: a [`Responder`] answers on each connection.
//!
//! Invariant: the server reads nothing more from a client that does not read its answers.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result};
use mio::{
    Events, Interest, Poll, Registry, Token,
    net::{TcpListener, TcpStream},
};
use slab::Slab;

use super::responder::{NextAction, Responder};
use crate::{
    messages::Service,
    streams::{LISTENER, would_block},
};

struct Connection {
    socket: TcpStream,
    responder: Responder,
    /// Data that the full socket has not accepted; empty otherwise.
    unsent: Vec<u8>,
    next: NextAction,
}

/// Accepts and serves connections. Never returns without an error.
pub(super) fn serve(mut listener: TcpListener, service: Service) -> Result<()> {
    let mut poll = Poll::new().context("server cannot poll")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .context("server cannot poll its listener")?;
    let mut events = Events::with_capacity(1024);
    let mut connections = Slab::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.context("server cannot poll")?,
        }
        for event in &events {
            let Token(key) = event.token();
            if event.token() == LISTENER {
                accept(&listener, poll.registry(), service, &mut connections, &mut out)?;
            } else if let Some(connection) = connections.get_mut(key)
                // The client reports the end or the error of a connection.
                && connection.on_ready(&mut buffer, &mut out).is_err()
            {
                connections.remove(key);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    registry: &Registry,
    service: Service,
    connections: &mut Slab<Connection>,
    out: &mut Vec<u8>,
) -> Result<()> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error).context("server cannot accept"),
        };
        out.clear();
        let responder = Responder::new(service, out);
        let entry = connections.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry
            .register(&mut socket, Token(entry.key()), interest)
            .context("server cannot poll a connection")?;
        let key = entry.key();
        let connection = entry.insert(Connection {
            socket,
            responder,
            unsent: Vec::new(),
            next: NextAction::Continue,
        });
        if !out.is_empty() && connection.send(out).is_err() {
            connections.remove(key);
        }
    }
}

impl Connection {
    /// Reads and answers until the socket is empty. An error ends the connection; the end of the
    /// stream is an error.
    fn on_ready(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
        }
        while self.unsent.is_empty() {
            let read = match self.socket.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            out.clear();
            self.next = self.responder.receive(&buffer[..read], out);
            self.send(out)?;
            // A short read means that the socket is empty. More data causes another event.
            if read < buffer.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < data.len() {
            match self.socket.write(&data[sent..]) {
                Ok(more) => sent += more,
                Err(error) if would_block(&error) => {
                    self.unsent = data[sent..].to_vec();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        match self.next {
            NextAction::Continue => Ok(()),
            // Not a failure: the error makes the caller drop the connection.
            NextAction::Close => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
