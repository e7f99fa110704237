//! The client of everything but bulk: all connections of a [`Plan`] at a time.
//!
//! Ports cannot run out: where connections are short, the server closes first, so that the
//! sockets which linger (TIME_WAIT) are those of listening ports, at the server and at the
//! peer, and the ephemeral ports of whoever connected are free again at once. What is held is
//! given up with a reset, so that nothing lingers in the memory that is measured next.
//!
//! Invariant: a connection that fails is counted and made anew after a rest, so that a peer
//! that refuses everything is not flooded.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::SockRef;

use super::{
    plan::{After, Plan},
    session::Session,
    window::{Turned, Window},
};
use crate::{
    job::{ClientJob, Moment, Report, Tick, answer},
    probe::cpu,
};

/// Connections that are made at a time before the load is complete.
const RAMP: usize = 100;
/// How long the load may take to become complete.
const RAMP_PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection rests after a failure.
const REST: Duration = Duration::from_millis(10);
/// Between two ticks.
const TICK: Duration = Duration::from_millis(20);
/// After this time a connection that is to bear a churn counts as failed.
const TOO_LONG: Duration = Duration::from_secs(5);

struct Sessions<'a> {
    job: &'a ClientJob,
    plan: &'a Plan,
    poll: Poll,
    slots: Vec<Slot>,
    /// Slots that rest until then; all rest for the same time, so the first is due first.
    resting: VecDeque<(Instant, usize)>,
    rest: Duration,
    /// Slots whose first dialogue is over.
    warm: usize,
    target: usize,
    window: Window,
    tick: Tick,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    session: Option<Session>,
    /// When its current dialogue began.
    began: Option<Instant>,
    warm: bool,
}

/// Runs the plan; one that holds has no end.
pub(super) fn run(job: &ClientJob, plan: &Plan) -> Result<()> {
    let rest = match plan.after {
        After::Reconnect(pause) => pause.max(REST),
        _ => REST,
    };
    let mut sessions = Sessions {
        job,
        plan,
        poll: Poll::new().context("client cannot poll")?,
        slots: Vec::with_capacity(plan.connections),
        resting: VecDeque::new(),
        rest,
        warm: 0,
        target: 0,
        window: Window::new(job.warm_up, job.window)?,
        tick: Tick::default(),
        buffer: vec![0; 64 * 1024],
    };
    sessions.run()?;
    answer(&Report::Done(sessions.window.counted()))
}

impl Sessions<'_> {
    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let cpu = cpu::seconds()?;
        let mut next_tick = start + TICK;
        let mut now = start;
        let mut complete = false;
        loop {
            if !complete {
                complete = self.ramp(now - start)?;
                if complete {
                    if self.plan.after == After::Hold {
                        answer(&Report::Holding { cpu: cpu::seconds()? - cpu })?;
                    } else {
                        self.window.warm_up(now);
                    }
                }
            }
            let soonest = [
                self.window.next(),
                self.resting.front().map(|(due, _)| *due),
                self.plan.ticks.then_some(next_tick),
                (!complete).then_some(start + RAMP_PATIENCE),
            ];
            let patience = soonest.into_iter().flatten().min().map(|due| due - now.min(due));
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other.context("client cannot poll")?,
            }
            for event in &events {
                self.advance(event.token().0)?;
            }
            now = Instant::now();
            while let Some(&(_, slot)) = self.resting.front().filter(|(due, _)| *due <= now) {
                self.resting.pop_front();
                self.connect(slot)?;
            }
            if self.plan.ticks && now >= next_tick {
                self.give_up(now)?;
                answer(&Report::Tick(self.tick.clone()))?;
                next_tick = now + TICK;
            }
            if self.window.turn(now)? == Turned::Closed {
                return Ok(());
            }
        }
    }

    /// Makes more connections until all are there. True if their first dialogues are over.
    fn ramp(&mut self, took: Duration) -> Result<bool> {
        let all = self.plan.connections;
        while self.slots.len() < all && self.slots.len() < self.warm + RAMP {
            self.slots.push(Slot::default());
            self.connect(self.slots.len() - 1)?;
        }
        let complete = self.warm == all;
        if !complete && took >= RAMP_PATIENCE {
            match self.window.failures() {
                (errors, Some(why)) => {
                    bail!("{} of {all} connections work, {errors} failed: {why}", self.warm)
                }
                _ => bail!("{} of {all} connections work after {RAMP_PATIENCE:?}", self.warm),
            }
        }
        Ok(complete)
    }

    fn connect(&mut self, slot: usize) -> Result<()> {
        let target = self.job.targets[self.target % self.job.targets.len()];
        self.target += 1;
        self.slots[slot].began = Some(Instant::now());
        let made = TcpStream::connect(target).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(slot), interest)?;
            if self.plan.steps.len() > 2 || self.plan.after == After::Repeat {
                socket.set_nodelay(true)?;
            }
            if self.plan.after == After::Hold {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
            }
            Ok(socket)
        });
        match made {
            Ok(socket) => {
                self.slots[slot].session = Some(Session::new(socket));
                Ok(())
            }
            Err(error) => self.failed(slot, &error),
        }
    }

    fn advance(&mut self, key: usize) -> Result<()> {
        let slot = &mut self.slots[key];
        let Some(session) = &mut slot.session else { return Ok(()) };
        loop {
            match session.advance(&self.plan.steps, &mut self.buffer) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error) => return self.failed(key, &error),
            }
            let now = Instant::now();
            let took = now - slot.began.replace(now).unwrap_or(now);
            if !slot.warm {
                slot.warm = true;
                self.warm += 1;
            }
            self.window.done(took);
            if self.plan.ticks {
                self.tick.done += 1;
                self.tick.slowest = self.tick.slowest.max(took);
                let server = session.first.unwrap_or_default();
                self.tick.first_answer.entry(server).or_insert_with(Moment::now);
            }
            match self.plan.after {
                After::Repeat => session.restart(),
                After::Hold => return Ok(()),
                After::Reconnect(pause) => {
                    slot.session = None;
                    if pause.is_zero() {
                        return self.connect(key);
                    }
                    self.resting.push_back((now + self.rest, key));
                    return Ok(());
                }
            }
        }
    }

    /// Ends what has taken too long.
    fn give_up(&mut self, now: Instant) -> Result<()> {
        for key in 0..self.slots.len() {
            let Slot { session, began, .. } = &self.slots[key];
            if session.is_some() && began.is_some_and(|began| now - began >= TOO_LONG) {
                self.failed(key, &io::ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }

    fn failed(&mut self, key: usize, error: &io::Error) -> Result<()> {
        self.slots[key].session = None;
        self.resting.push_back((Instant::now() + self.rest, key));
        let complete = self.warm == self.plan.connections;
        ensure!(
            self.plan.after != After::Hold || !complete,
            "a connection that was held broke: {error}"
        );
        self.window.failed(|| error.to_string());
        self.tick.errors += 1;
        self.tick.last_error = Some(Moment::now());
        Ok(())
    }
}
