//! The server of bulk streams.
//!
//! Invariant: what has moved is known to [`ByteCounters`] before anything else moves.

use anyhow::{Context as _, Result};
use mio::{Events, Interest, Poll, Registry, net::TcpListener};

use super::byte_counters::ByteCounters;
use crate::{
    messages::Direction,
    streams::{LISTENER, Streams, would_block},
};

/// Serves without end.
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
            // The server sends what goes down and receives what goes up.
            Ok((socket, _)) => streams
                .add(registry, socket, (direction.down(), direction.up()))
                .context("server cannot poll a stream")?,
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error).context("server cannot accept"),
        }
    }
}
