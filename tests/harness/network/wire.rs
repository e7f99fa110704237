//! A cable between two TAP devices that records TCP packets, and can lose, delay, duplicate and
//! fragment frames.
//!
//! Invariants: what happens to a frame depends only on its number in its direction, so every run
//! has the same faults. Frames that are not delayed keep their order.

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

/// Conditions of a cable, the same in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkConditions {
    /// Percentage of frames that are lost.
    pub lost: u8,
    /// Percentage of frames that arrive after later frames.
    pub late: u8,
    /// Percentage of frames that arrive twice.
    pub twice: u8,
    /// Delay of all frames.
    pub delay: Duration,
    /// Minimum length of an IPv4 packet that is split into two fragments, whatever its
    /// don't-fragment bit.
    pub split: Option<usize>,
}

/// Maximum extra delay of a late or duplicated frame.
const MAX_LATENESS: Duration = Duration::from_millis(3);

/// Frames read before the delayed frames are checked again.
const BATCH: usize = 64;

/// A cable; dropping it disconnects the devices.
#[derive(Debug)]
pub(super) struct Wire {
    /// By direction: from the first end to the second, and back.
    seen: [Arc<Observed>; 2],
    /// Path MTU beyond the first router.
    path: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    /// Closing the pipe ends both threads.
    stop: Option<PipeWriter>,
}

/// Number of frames that the conditions have affected.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFaults {
    /// Lost frames.
    pub lost: u64,
    /// Late frames.
    pub late: u64,
    /// Duplicated frames.
    pub twice: u64,
    /// Fragmented frames.
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

/// Packets and faults of one direction.
#[derive(Debug, Default)]
struct Observed(Mutex<(Vec<Packet>, LinkFaults)>);

impl Observed {
    fn lock(&self) -> MutexGuard<'_, (Vec<Packet>, LinkFaults)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Joins two devices with an MTU of `mtu` bytes; longer packets do not pass.
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

    /// Sets the path MTU. A router on the cable rejects longer packets with an ICMP error.
    pub(super) fn set_path(&self, mtu: usize) {
        self.path.store(mtu, SeqCst);
    }

    /// TCP packets sent so far in one direction.
    pub(super) fn seen(&self, direction: usize) -> Vec<Packet> {
        self.seen[direction].lock().0.clone()
    }

    /// Faults so far in both directions.
    pub(super) fn faults(&self) -> LinkFaults {
        let [there, back] = &self.seen;
        there.lock().1 + back.lock().1
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed, and fails the test by its consequences.
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
    /// Delayed frames, ordered by arrival time.
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
            // An interrupted wait returns no events.
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

    /// Rejects, fragments or passes on a frame.
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

    /// Applies the conditions to a frame.
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

    /// Delivers the frames whose time has come.
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
