//! The client of bulk streams, and of receivers that stand still.
//!
//! Invariant: bytes count where they arrive, at the server or here.

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

/// How long the server must not have got rid of anything for its receivers to stand still.
const QUIET_TIME: Duration = Duration::from_millis(500);
/// AfterExchange this time what still moves is taken as standing still.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

struct Bulk {
    poll: Poll,
    events: Events,
    streams: Streams,
    counters: UnixStream,
}

/// Moves bytes and counts them.
pub(super) fn run(job: &ClientConfig, streams: usize, direction: Direction) -> Result<()> {
    let mut bulk = Bulk::start(job, streams, (direction.up(), direction.down()))?;
    let mut window = Window::new(job.warm_up, job.window)?;
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
                ensure!(received > 0, "nothing arrived within {:?}", job.window);
                let mut counts = window.into_counts();
                counts.bytes = received;
                return send_report(&ClientReport::Done(counts));
            }
        }
    }
}

/// Lets the server send to connections of which nothing is read; has no end.
pub(super) fn stall(job: &ClientConfig, receivers: usize) -> Result<()> {
    let cpu = cpu::seconds()?;
    let mut bulk = Bulk::start(job, receivers, (false, false))?;
    let start = Instant::now();
    let (mut sent, mut since) = (0, start);
    while since.elapsed() < QUIET_TIME && start.elapsed() < QUIET_TIMEOUT {
        bulk.poll(Some(POLL_INTERVAL))?;
        let (now_sent, _) = bulk.server_counts()?;
        if now_sent != sent {
            (sent, since) = (now_sent, Instant::now());
        }
    }
    ensure!(sent > 0, "nothing was sent within {QUIET_TIME:?}");
    send_report(&ClientReport::Holding { cpu: cpu::seconds()? - cpu })?;
    loop {
        bulk.poll(None)?;
    }
}

impl Bulk {
    fn start(job: &ClientConfig, count: usize, directions: (bool, bool)) -> Result<Self> {
        let poll = Poll::new().context("client cannot poll")?;
        let counters = UnixStream::connect(&job.counters).context("cannot ask the server")?;
        let mut streams = Streams::new();
        for (_, target) in (0..count).zip(job.targets.iter().cycle()) {
            // A blocking connect: the load is complete when the last has succeeded.
            let socket = TcpStream::connect(target)
                .and_then(|socket| {
                    socket.set_nodelay(true)?;
                    // Whatever is under way is of no use to anybody.
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

    /// What the server and we have received.
    fn received(&mut self) -> Result<u64> {
        let (_, server) = self.server_counts()?;
        Ok(server + self.streams.received)
    }

    /// What the server has sent and received.
    fn server_counts(&mut self) -> Result<(u64, u64)> {
        let mut answer = [0; 16];
        self.counters
            .write_all(&[0])
            .and_then(|()| self.counters.read_exact(&mut answer))
            .context("the server does not tell its bytes")?;
        let both = u128::from_be_bytes(answer);
        Ok(((both >> 64) as u64, both as u64))
    }
}
