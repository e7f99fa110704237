//! A cable between two devices: it can be observed, and frames can be lost on it, be late, or
//! come twice.
//!
//! Invariant: what happens to a frame depends on its number in its direction alone, so a test
//! meets the same faults each time; frames that are not late keep their order.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{PipeReader, PipeWriter, pipe},
    ops::Add,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    packet::{self, Packet},
    router::too_big,
    tap::Tap,
};

/// What happens to frames on a cable, in each of its directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkConditions {
    /// How many of a hundred are lost.
    pub lost: u8,
    /// How many of a hundred come later than some of those behind them.
    pub late: u8,
    /// How many of a hundred come twice.
    pub twice: u8,
    /// How long all are on their direction.
    pub delay: Duration,
    /// Bytes of a packet of IPv4 from which on it comes in two fragments, whatever it says about that.
    pub split: Option<usize>,
}

/// The most that a frame which is late, or comes again, is behind its time.
const MAX_LATENESS: Duration = Duration::from_millis(3);

/// Frames that are taken before those whose time has come are looked at again.
const BATCH: usize = 64;

/// A cable, cut when dropped.
#[derive(Debug)]
pub(super) struct Wire {
    /// By direction: from the first end to the second, and back.
    seen: [Arc<Observed>; 2],
    /// Bytes that a packet may have beyond the first router.
    path: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    /// Both threads end when this is closed.
    stop: Option<PipeWriter>,
}

/// How often the conditions has struck.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFaults {
    /// Frames lost.
    pub lost: u64,
    /// Frames that came late.
    pub late: u64,
    /// Frames that came twice.
    pub twice: u64,
    /// Frames that came in fragments.
    pub split: u64,
}

impl Add for LinkFaults {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            late: self.late + other.late,
            twice: self.twice + other.twice,
            split: self.split + other.split,
        }
    }
}

/// What has happened in a direction.
#[derive(Debug, Default)]
struct Observed(Mutex<(Vec<Packet>, LinkFaults)>);

impl Observed {
    fn lock(&self) -> MutexGuard<'_, (Vec<Packet>, LinkFaults)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Joins two devices whose packets have at most `mtu` bytes; longer ones do not pass.
    pub(super) fn new(ends: [Tap; 2], mtu: usize, conditions: LinkConditions) -> Self {
        let (stopped, stop) = pipe().expect("pipe");
        let ends = Arc::new(ends);
        let seen = <[Arc<Observed>; 2]>::default();
        let path = Arc::new(AtomicUsize::new(mtu));
        let threads = [0, 1].map(|direction| {
            let (ends, seen) = (Arc::clone(&ends), Arc::clone(&seen[direction]));
            let path = Arc::clone(&path);
            let stopped = stopped.try_clone().expect("dup");
            thread::spawn(move || {
                let [from, to] = [&ends[direction], &ends[1 - direction]];
                let random = fastrand::Rng::with_seed(direction as u64);
                let (count, held) = (0, BinaryHeap::new());
                Direction {
                    from,
                    to,
                    mtu,
                    path: &path,
                    conditions,
                    random,
                    seen: &seen,
                    count,
                    held,
                }
                .carry(&stopped);
            })
        });
        Self { seen, path, threads: threads.into(), stop: Some(stop) }
    }

    /// Has a router on it say of longer packets that they are too big. They do not pass.
    pub(super) fn set_path(&self, mtu: usize) {
        self.path.store(mtu, SeqCst);
    }

    /// What has been sent so far in one direction.
    pub(super) fn seen(&self, direction: usize) -> Vec<Packet> {
        self.seen[direction].lock().0.clone()
    }

    /// How often the conditions has struck, in both directions.
    pub(super) fn faults(&self) -> LinkFaults {
        let [there, back] = &self.seen;
        there.lock().1 + back.lock().1
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic there has been printed, and what it broke fails the test.
            let _ = thread.join();
        }
    }
}

/// One direction of a cable.
struct Direction<'a> {
    from: &'a Tap,
    to: &'a Tap,
    mtu: usize,
    path: &'a AtomicUsize,
    conditions: LinkConditions,
    random: fastrand::Rng,
    seen: &'a Observed,
    count: u64,
    /// Frames on their direction, in the order of their arrival.
    held: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
}

impl Direction<'_> {
    fn carry(&mut self, stopped: &PipeReader) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut ends = [stopped.as_fd(), self.from.as_fd()]
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
            let now = Instant::now();
            let wait =
                self.held.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
            // An interrupted wait has found nothing.
            let _ = ppoll(&mut ends, wait.map(TimeSpec::from_duration), None);
            if ends[0].any() == Some(true) {
                return;
            }
            for _ in 0..BATCH {
                let Some(len) = self.from.read(&mut buffer) else { break };
                self.take(&buffer[..len]);
            }
            self.deliver();
        }
    }

    /// Decides what becomes of a frame.
    fn take(&mut self, frame: &[u8]) {
        if let Some(answer) = too_big(frame, self.path.load(SeqCst)) {
            self.from.write(&answer);
            return;
        }
        self.seen.lock().0.extend(Packet::of(frame));
        let least = self.conditions.split;
        let is_long = least.is_some_and(|least| frame.len() >= packet::HEADER + least);
        match is_long.then(|| packet::split(frame)).flatten() {
            Some(fragments) => {
                self.seen.lock().1.split += 1;
                fragments.iter().for_each(|fragment| self.apply_conditions(fragment));
            }
            None => self.apply_conditions(frame),
        }
    }

    /// Lets a frame apply_conditions the conditions.
    fn apply_conditions(&mut self, frame: &[u8]) {
        let LinkConditions { lost, late, twice, delay, .. } = self.conditions;
        let [lost, late, twice] = [lost, late, twice].map(|share| self.random.u8(0..100) < share);
        let [lateness, again] = [0, 1].map(|_| MAX_LATENESS.mul_f64(self.random.f64()));
        let [lost, late, twice] = [lost, late && !lost, twice && !lost];
        let faults =
            LinkFaults { lost: lost.into(), late: late.into(), twice: twice.into(), split: 0 };
        let mut seen = self.seen.lock();
        seen.1 = seen.1 + faults;
        drop(seen);
        if lost || frame.len() > packet::HEADER + self.mtu {
            return;
        }
        let due = Instant::now() + delay;
        if twice {
            self.hold(due + again, frame);
        }
        if late {
            self.hold(due + lateness, frame);
        } else if delay.is_zero() {
            self.to.write(frame);
        } else {
            self.hold(due, frame);
        }
    }

    fn hold(&mut self, due: Instant, frame: &[u8]) {
        self.count += 1;
        self.held.push(Reverse((due, self.count, frame.to_vec())));
    }

    /// Lets those arrive whose time has come.
    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = self.held.peek()
            && *due <= now
        {
            if let Some(Reverse((.., frame))) = self.held.pop() {
                self.to.write(&frame);
            }
        }
    }
}
