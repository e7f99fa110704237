//! The client of all loads except bulk: runs all connections of a [`Plan`] concurrently.
//!
//! The client cannot run out of ports. With short connections the server closes first, so the
//! sockets in TIME_WAIT belong to the listening ports of the server and of the proxy, and the
//! ephemeral ports of the connecting side are free at once. Held connections end with a reset, so
//! no TIME_WAIT socket remains in the memory that is measured next.
//!
//! Invariant: a failed connection is counted and replaced after a pause, so a proxy that refuses
//! every connection is not flooded.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::SockRef;

use super::{
    connection::Connection,
    plan::{AfterExchange, Plan},
    window::{Transition, Window},
};
use crate::{
    messages::{ClientConfig, ClientReport, Progress, Timestamp, send_report},
    probe::cpu,
};

/// Connections that are started per step until the load is up.
const RAMP_STEP: usize = 100;
/// Time limit for the load to be up.
const RAMP_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before a failed connection is replaced.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Time between two progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
/// Time after which a request of the churn scenario counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

struct Connections<'a> {
    config: &'a ClientConfig,
    plan: &'a Plan,
    poll: Poll,
    slots: Vec<Slot>,
    /// Paused slots and the end of their pause. All pauses are equal, so the first slot is due
    /// first.
    paused: VecDeque<(Instant, usize)>,
    pause: Duration,
    /// Number of slots that have completed an exchange.
    answered: usize,
    target: usize,
    window: Window,
    progress: Progress,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// When the current exchange started.
    started: Option<Instant>,
    answered: bool,
}

/// Runs the plan. A plan that holds connections never returns.
pub(super) fn run(config: &ClientConfig, plan: &Plan) -> Result<()> {
    let pause = match plan.after {
        AfterExchange::Reconnect(pause) => pause.max(RETRY_PAUSE),
        _ => RETRY_PAUSE,
    };
    let mut connections = Connections {
        config,
        plan,
        poll: Poll::new().context("client cannot poll")?,
        slots: Vec::with_capacity(plan.connections),
        paused: VecDeque::new(),
        pause,
        answered: 0,
        target: 0,
        window: Window::new(config.warm_up, config.window)?,
        progress: Progress::default(),
        buffer: vec![0; 64 * 1024],
    };
    connections.run()?;
    send_report(&ClientReport::Done(connections.window.into_counts()))
}

impl Connections<'_> {
    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let cpu = cpu::seconds()?;
        let mut next_tick = start + PROGRESS_INTERVAL;
        let mut now = start;
        let mut load_is_up = false;
        loop {
            if !load_is_up {
                load_is_up = self.ramp_up(now - start)?;
                if load_is_up {
                    if self.plan.after == AfterExchange::Hold {
                        send_report(&ClientReport::Holding { cpu: cpu::seconds()? - cpu })?;
                    } else {
                        self.window.warm_up(now);
                    }
                }
            }
            let deadlines = [
                self.window.next_transition(),
                self.paused.front().map(|(due, _)| *due),
                self.plan.reports_progress.then_some(next_tick),
                (!load_is_up).then_some(start + RAMP_TIMEOUT),
            ];
            let timeout = deadlines.into_iter().flatten().min().map(|due| due - now.min(due));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other.context("client cannot poll")?,
            }
            for event in &events {
                self.advance(event.token().0)?;
            }
            now = Instant::now();
            while let Some(&(_, slot)) = self.paused.front().filter(|(due, _)| *due <= now) {
                self.paused.pop_front();
                self.connect(slot)?;
            }
            if self.plan.reports_progress && now >= next_tick {
                self.fail_overdue(now)?;
                send_report(&ClientReport::Progress(self.progress.clone()))?;
                next_tick = now + PROGRESS_INTERVAL;
            }
            if self.window.update(now)? == Transition::Closed {
                return Ok(());
            }
        }
    }

    /// Starts more connections until all exist. Returns true when each has completed an exchange.
    fn ramp_up(&mut self, elapsed: Duration) -> Result<bool> {
        let all = self.plan.connections;
        while self.slots.len() < all && self.slots.len() < self.answered + RAMP_STEP {
            self.slots.push(Slot::default());
            self.connect(self.slots.len() - 1)?;
        }
        let load_is_up = self.answered == all;
        if !load_is_up && elapsed >= RAMP_TIMEOUT {
            match self.window.failures() {
                (errors, Some(why)) => {
                    bail!("{} of {all} connections work, {errors} failed: {why}", self.answered)
                }
                _ => bail!(
                    "{} of {all} connections work after {} s",
                    self.answered,
                    RAMP_TIMEOUT.as_secs()
                ),
            }
        }
        Ok(load_is_up)
    }

    fn connect(&mut self, slot: usize) -> Result<()> {
        let target = self.config.targets[self.target % self.config.targets.len()];
        self.target += 1;
        self.slots[slot].started = Some(Instant::now());
        let made = TcpStream::connect(target).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(slot), interest)?;
            if self.plan.steps.len() > 2 || self.plan.after == AfterExchange::Repeat {
                socket.set_nodelay(true)?;
            }
            if self.plan.after == AfterExchange::Hold {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
            }
            Ok(socket)
        });
        match made {
            Ok(socket) => {
                self.slots[slot].connection = Some(Connection::new(socket));
                Ok(())
            }
            Err(error) => self.failed(slot, &error),
        }
    }

    fn advance(&mut self, key: usize) -> Result<()> {
        let slot = &mut self.slots[key];
        let Some(connection) = &mut slot.connection else { return Ok(()) };
        loop {
            match connection.advance(&self.plan.steps, &mut self.buffer) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error) => return self.failed(key, &error),
            }
            let now = Instant::now();
            let elapsed = now - slot.started.replace(now).unwrap_or(now);
            if !slot.answered {
                slot.answered = true;
                self.answered += 1;
            }
            self.window.record(elapsed);
            if self.plan.reports_progress {
                self.progress.requests += 1;
                self.progress.slowest = self.progress.slowest.max(elapsed);
                let server = connection.first_byte.unwrap_or_default();
                self.progress.first_answer.entry(server).or_insert_with(Timestamp::now);
            }
            match self.plan.after {
                AfterExchange::Repeat => connection.restart(),
                AfterExchange::Hold => return Ok(()),
                AfterExchange::Reconnect(pause) => {
                    slot.connection = None;
                    if pause.is_zero() {
                        return self.connect(key);
                    }
                    self.paused.push_back((now + self.pause, key));
                    return Ok(());
                }
            }
        }
    }

    /// Fails requests that exceed their time limit.
    fn fail_overdue(&mut self, now: Instant) -> Result<()> {
        for key in 0..self.slots.len() {
            let Slot { connection, started, .. } = &self.slots[key];
            if connection.is_some()
                && started.is_some_and(|started| now - started >= REQUEST_TIMEOUT)
            {
                self.failed(key, &io::ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }

    fn failed(&mut self, key: usize, error: &io::Error) -> Result<()> {
        self.slots[key].connection = None;
        self.paused.push_back((Instant::now() + self.pause, key));
        let load_is_up = self.answered == self.plan.connections;
        ensure!(
            self.plan.after != AfterExchange::Hold || !load_is_up,
            "a connection that was held broke: {error}"
        );
        self.window.record_failure(|| error.to_string());
        self.progress.errors += 1;
        self.progress.last_error = Some(Timestamp::now());
        Ok(())
    }
}
