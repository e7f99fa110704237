//! The client of bulk streams and of stalled receivers.
//!
//! Invariant: bytes count at the receiver, which is the server or this client.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mio::{Events, Poll};
use socket2::SockRef;

use super::window::{Transition, Window};
use crate::{
    messages::{ClientConfig, ClientReport, Direction, send_report},
    probe::cpu,
    streams::Streams,
};

/// A stall is complete when the server has sent nothing for this time.
const QUIET_TIME: Duration = Duration::from_millis(500);
/// After this time a stall counts as complete although the server still sends.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

struct Bulk {
    poll: Poll,
    events: Events,
    streams: Streams,
    counters: UnixStream,
}

/// Transfers bytes during the measuring window and reports the number received.
pub(super) fn run(config: &ClientConfig, streams: usize, direction: Direction) -> Result<()> {
    let mut bulk = Bulk::start(config, streams, (direction.up(), direction.down()))?;
    let mut window = Window::new(config.warm_up, config.window)?;
    window.warm_up(Instant::now());
    let mut before = 0;
    let mut now = Instant::now();
    loop {
        let timeout = window.next_transition().map(|next| next.saturating_duration_since(now));
        bulk.poll(timeout)?;
        now = Instant::now();
        match window.update(now)? {
            Transition::Unchanged => {}
            Transition::Opened => before = bulk.received()?,
            Transition::Closed => {
                let received = bulk.received()? - before;
                ensure!(received > 0, "nothing arrived within {} s", config.window.as_secs());
                let mut counts = window.into_counts();
                counts.bytes = received;
                return send_report(&ClientReport::Done(counts));
            }
        }
    }
}

/// Lets the server send to connections that never read. Never returns.
pub(super) fn stall(config: &ClientConfig, receivers: usize) -> Result<()> {
    let cpu = cpu::seconds()?;
    let mut bulk = Bulk::start(config, receivers, (false, false))?;
    let start = Instant::now();
    let (mut sent, mut changed_at) = (0, start);
    while changed_at.elapsed() < QUIET_TIME && start.elapsed() < QUIET_TIMEOUT {
        bulk.poll(Some(POLL_INTERVAL))?;
        let (now_sent, _) = bulk.server_counts()?;
        if now_sent != sent {
            (sent, changed_at) = (now_sent, Instant::now());
        }
    }
    ensure!(sent > 0, "nothing was sent within {} ms", QUIET_TIME.as_millis());
    send_report(&ClientReport::Holding { cpu: cpu::seconds()? - cpu })?;
    loop {
        bulk.poll(None)?;
    }
}

impl Bulk {
    fn start(config: &ClientConfig, count: usize, directions: (bool, bool)) -> Result<Self> {
        let poll = Poll::new().context("client cannot poll")?;
        let counters = UnixStream::connect(&config.counters)
            .context("cannot connect to the server's byte counters")?;
        let mut streams = Streams::new();
        for (_, target) in (0..count).zip(config.targets.iter().cycle()) {
            // The connect blocks, so the load is complete after the last connect.
            let socket = TcpStream::connect(target)
                .and_then(|socket| {
                    socket.set_nodelay(true)?;
                    // Close with a reset: bytes in flight need not be delivered.
                    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
                    socket.set_nonblocking(true).map(|()| socket)
                })
                .with_context(|| format!("client cannot connect to {target}"))?;
            streams
                .add(poll.registry(), mio::net::TcpStream::from_std(socket), directions)
                .context("client cannot poll a stream")?;
        }
        Ok(Self { poll, events: Events::with_capacity(256), streams, counters })
    }

    fn poll(&mut self, timeout: Option<Duration>) -> Result<()> {
        let Self { poll, events, streams, .. } = self;
        let (ended, _) = streams.poll(poll, events, timeout).context("client cannot poll")?;
        ensure!(ended == 0, "{ended} streams have broken, {} are left", streams.len());
        Ok(())
    }

    /// Returns the bytes that the server and this client have received.
    fn received(&mut self) -> Result<u64> {
        let (_, server) = self.server_counts()?;
        Ok(server + self.streams.received)
    }

    /// Returns the bytes that the server has sent and received.
    fn server_counts(&mut self) -> Result<(u64, u64)> {
        let mut answer = [0; 16];
        self.counters
            .write_all(&[0])
            .and_then(|()| self.counters.read_exact(&mut answer))
            .context("cannot read the server's byte counters")?;
        let both = u128::from_be_bytes(answer);
        Ok(((both >> 64) as u64, both as u64))
    }
}
