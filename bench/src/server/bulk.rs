//! The server of bulk streams.
//!
//! Invariant: [`ByteCounters`] contains all bytes transferred before the next transfer starts.

use anyhow::{Context as _, Result};
use mio::{Events, Interest, Poll, Registry, net::TcpListener};

use super::byte_counters::ByteCounters;
use crate::{
    messages::Direction,
    streams::{LISTENER, Streams, would_block},
};

/// Accepts and serves streams. Never returns without an error.
pub(super) fn serve(
    mut listener: TcpListener,
    direction: Direction,
    counters: &ByteCounters,
) -> Result<()> {
    let mut poll = Poll::new().context("server cannot poll")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .context("server cannot poll its listener")?;
    let mut events = Events::with_capacity(256);
    let mut streams = Streams::new();
    loop {
        let (_, incoming) =
            streams.poll(&mut poll, &mut events, None).context("server cannot poll")?;
        counters.set(streams.sent, streams.received);
        if incoming {
            accept(&mut streams, &listener, direction, poll.registry())?;
        }
    }
}

fn accept(
    streams: &mut Streams,
    listener: &TcpListener,
    direction: Direction,
    registry: &Registry,
) -> Result<()> {
    loop {
        match listener.accept() {
            // The server sends the downward bytes and receives the upward bytes.
            Ok((socket, _)) => streams
                .add(registry, socket, (direction.down(), direction.up()))
                .context("server cannot poll a stream")?,
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error).context("server cannot accept"),
        }
    }
}
