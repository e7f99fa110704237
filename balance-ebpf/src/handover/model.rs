//! The hand-over under all orders of its steps, with what a weak memory order makes of each.
//!
//! Runs the code of the program and of user space on loom's atomics: the program on two threads, one
//! for each direction, as its processors run it; user space on a third, where its two tasks take
//! turns as they do on a worker. Loom goes through the orders in which the threads can take their
//! steps, and through the values that each load may still see by the memory model; an access to the
//! backlog that is not ordered against the last one is an error of its own. A checker of
//! interleavings alone would not do: the program's loads acquire nothing, and its processor may be
//! one that reorders.
//!
//! With LOOM_MAX_PREEMPTIONS=2 it looks deeper than there is time for with every change (optimised, and
//! for minutes).
//!
//! What the kernel does around it is in `Socket`: its queue, which bytes that are passed up share with
//! bytes to be sent, and the worker that empties it, as late as possible. The tasks of user space
//! are those of `offload.rs` in short, with the same waits. Invariants that are checked: each packet
//! reaches the target once and after the one before it, at any moment, so that it does not matter
//! when a reset comes; all of them do, wherever a stream ends; when all wait, all is done, also with a peer
//! that never reads; and the backlog begins anew only with everything written.

extern crate std;

use core::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    mem,
    pin::pin,
    task::{Context, Poll, Waker},
};
use std::{collections::VecDeque, sync::Mutex};

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        Arc, Notify,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    thread,
};

use super::*;
use crate::flow::QUANTUM;

/// Of each packet: the program looks at the target with every one.
const LEN: u32 = QUANTUM;

/// What is tried.
#[derive(Clone, Copy, Default)]
struct Case {
    /// Packets that arrive from each source.
    packets: [u32; 2],
    /// How much a flow may owe, in packets.
    limit: u32,
    /// How many hand-overs of each flow find no room among the events.
    untold: u32,
    /// The end that never reads, if there is one: its socket has room for one packet.
    stalled: Option<usize>,
    /// What is wrong.
    mutant: Option<Mutant>,
}

/// Something that must not be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// The program's exchange orders nothing.
    RelaxedExchange,
    /// User space's exchange releases nothing.
    RelaxedReturn,
    /// User space sends what was passed without looking whether all before it was written.
    Unsettled,
}

/// One flow.
struct Words {
    mutant: Option<Mutant>,
    state: AtomicU64,
    redirected: AtomicU64,
    backlog: UnsafeCell<Backlog>,
}

impl ProgramWords for &Words {
    fn glance(&self) -> u64 {
        self.state.load(Relaxed)
    }

    fn exchange(&self, current: u64, new: u64) -> u64 {
        let order = if self.mutant == Some(Mutant::RelaxedExchange) { Relaxed } else { AcqRel };
        self.state.compare_exchange(current, new, order, Relaxed).unwrap_or_else(|seen| seen)
    }

    fn add_redirected(&self, len: u32) -> u64 {
        let sum = self.redirected.load(Relaxed) + u64::from(len);
        self.redirected.store(sum, Relaxed);
        sum
    }

    fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R {
        // SAFETY: loom finds whoever else uses it.
        self.backlog.with_mut(|backlog| work(unsafe { &mut *backlog }))
    }
}

/// A socket: the source of the flow of its number, and the target of the other.
#[derive(Default)]
struct Socket {
    /// What the kernel's worker has yet to send, or to pass up.
    queue: VecDeque<Queued>,
    /// What user space can read.
    readable: VecDeque<u32>,
    /// Its peer has said all.
    ended: bool,
    /// User space is to look at the flow of which it is the source.
    event: bool,
    /// Packets that were written to it.
    written: u32,
    /// Packets that it takes before its peer reads; `None` if that reads at once.
    room: Option<u32>,
}

enum Queued {
    Send(u32),
    PassUp(u32),
}

impl Socket {
    fn has_room(&self) -> bool {
        self.room != Some(0)
    }

    /// Writes the packet with this number in its stream.
    fn write(&mut self, number: u32) {
        assert_eq!(number, self.written, "a packet is not the next of its stream");
        self.written += 1;
        if let Some(room) = &mut self.room {
            *room -= 1;
        }
    }

    /// What the kernel's worker does next; false if there is nothing.
    fn work(&mut self) -> bool {
        match self.queue.front() {
            Some(&Queued::Send(number)) if self.has_room() => self.write(number),
            Some(&Queued::PassUp(number)) => self.readable.push_back(number),
            _ => return false,
        }
        self.queue.pop_front();
        true
    }

    fn written(&self) -> u64 {
        u64::from(self.written) * u64::from(LEN)
    }

    /// Whether something was redirected to it and not written.
    fn owes(&self) -> bool {
        self.queue.iter().any(|queued| matches!(queued, Queued::Send(_)))
    }
}

/// A connection.
struct World {
    case: Case,
    flows: [Words; 2],
    /// With how often each was used: what makes loom try the other order, and orders what it does
    /// as the kernel's locks do, in one step instead of two.
    sockets: [(AtomicU64, Mutex<Socket>); 2],
    /// Wakes the worker.
    wake: Notify,
}

impl World {
    fn new(case: Case) -> Self {
        let words = |_| Words {
            mutant: case.mutant,
            state: AtomicU64::new(USER),
            redirected: AtomicU64::new(0),
            backlog: UnsafeCell::new(Backlog::default()),
        };
        let socket = |i| {
            let room = (case.stalled == Some(i)).then_some(1);
            (AtomicU64::new(0), Mutex::new(Socket { room, ..Socket::default() }))
        };
        Self { case, flows: [0, 1].map(words), sockets: [0, 1].map(socket), wake: Notify::new() }
    }

    fn socket<R>(&self, i: usize, work: impl FnOnce(&mut Socket) -> R) -> R {
        let (uses, socket) = &self.sockets[i];
        uses.fetch_add(1, AcqRel);
        work(&mut socket.lock().unwrap())
    }

    /// The packets of a source, and its end.
    fn program(&self, i: usize) {
        let [flow, other] = [&self.flows[i], &self.flows[1 - i]];
        let untold = Cell::new(self.case.untold);
        let tell = || {
            if untold.get() > 0 {
                untold.set(untold.get() - 1);
                return false;
            }
            self.socket(i, |source| source.event = true);
            true
        };
        let target = || {
            Some(self.socket(1 - i, |target| {
                let held = if target.room.is_some() { target.written * LEN } else { 0 };
                (target.written(), held)
            }))
        };
        for number in 0..self.case.packets[i] {
            let limit = self.case.limit * LEN + LEN / 2;
            let is_clear = || self.socket(i, |source| !source.owes());
            match arrive(&flow, Some(&other), LEN, limit, tell, target, is_clear) {
                Course::Pass => self.socket(i, |source| {
                    if source.queue.is_empty() {
                        source.readable.push_back(number);
                    } else {
                        source.queue.push_back(Queued::PassUp(number));
                    }
                }),
                Course::Redirect | Course::GiveUp => {
                    self.socket(1 - i, |target| target.queue.push_back(Queued::Send(number)));
                }
            }
            self.wake.notify();
        }
        self.socket(i, |source| source.ended = true);
        self.wake.notify();
    }
}

/// User space's words: it knows the world, to look whether it is right.
struct Mapped<'a> {
    world: &'a World,
    i: usize,
}

impl Mapped<'_> {
    fn words(&self) -> &Words {
        &self.world.flows[self.i]
    }
}

impl UserWords for Mapped<'_> {
    fn state(&self) -> u64 {
        self.words().state.load(Acquire)
    }

    fn exchange(&self, current: u64, new: u64) -> bool {
        let words = self.words();
        let order = if words.mutant == Some(Mutant::RelaxedReturn) { Relaxed } else { AcqRel };
        words.state.compare_exchange(current, new, order, Relaxed).is_ok()
    }

    fn redirected(&self) -> u64 {
        self.words().redirected.load(Relaxed)
    }

    fn backlog(&self, work: impl FnOnce(&mut Backlog)) {
        let owes = self.world.socket(1 - self.i, |target| target.owes());
        assert!(!owes, "the backlog begins anew while something is owed");
        // SAFETY: loom finds whoever else uses it.
        self.words().backlog.with_mut(|backlog| work(unsafe { &mut *backlog }));
    }
}

/// The worker, with the two tasks of the connection.
struct User<'a> {
    world: &'a World,
    ends: [UserEnd<Mapped<'a>>; 2],
    /// Steps that a task has made.
    steps: Cell<u32>,
    over: RefCell<[bool; 2]>,
}

enum Next {
    Kernel,
    User,
    End,
}

enum Received {
    Packet(u32),
    Nothing,
    End,
}

impl<'a> User<'a> {
    fn new(world: &'a World) -> Self {
        let ends = [0, 1].map(|i| UserEnd::new(Mapped { world, i }));
        Self { world, ends, steps: Cell::new(0), over: RefCell::default() }
    }

    /// Runs both tasks, and the kernel's own worker when neither goes on, until nothing is left to
    /// do.
    fn work(&self) {
        let (mut up, mut down) = (pin!(self.run(0)), pin!(self.run(1)));
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let before = self.steps.get();
            let mut over = *self.over.borrow();
            for (i, task) in [up.as_mut(), down.as_mut()].into_iter().enumerate() {
                over[i] = over[i] || task.poll(&mut context).is_ready();
            }
            *self.over.borrow_mut() = over;
            // What goes to a peer that never reads never comes to its end.
            if (0..2).all(|i| over[i] || self.world.case.stalled == Some(1 - i)) {
                return;
            }
            if self.steps.get() != before {
                continue;
            }
            let worked = [0, 1].map(|i| self.world.socket(i, Socket::work));
            if worked == [false; 2] {
                self.world.wake.wait();
            }
        }
    }

    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    async fn run(&self, i: usize) {
        while let Next::Kernel = self.in_user_space(i).await {
            if let Next::End = self.in_kernel(i).await {
                self.read_to_end(i).await;
                break;
            }
        }
        self.settle(i).await;
        self.ends[i].retire();
        self.world.socket(1 - i, |target| {
            assert!(!target.owes(), "a stream is ended before all of it is written");
            assert_eq!(target.written, self.world.case.packets[i], "packets are missing");
        });
        self.step();
    }

    async fn in_user_space(&self, i: usize) -> Next {
        let end = &self.ends[i];
        loop {
            if end.is_in_kernel() {
                return Next::Kernel;
            }
            self.settle(1 - i).await;
            self.settle_before_sending(i).await;
            if self.promote(i) {
                return Next::Kernel;
            }
            match self.receive(i) {
                Received::Packet(number) => self.relay(i, number).await,
                Received::Nothing if end.has_relayed_all() => self.wait(i).await,
                Received::End if end.has_relayed_all() => return Next::End,
                Received::Nothing | Received::End => turn().await,
            }
        }
    }

    async fn read_to_end(&self, i: usize) {
        loop {
            self.settle(1 - i).await;
            match self.receive(i) {
                Received::Packet(number) => self.relay(i, number).await,
                Received::End if self.ends[i].has_relayed_all() => return,
                Received::Nothing | Received::End => turn().await,
            }
        }
    }

    async fn in_kernel(&self, i: usize) -> Next {
        loop {
            let (event, ended) =
                self.world.socket(i, |source| (mem::take(&mut source.event), source.ended));
            if event {
                self.step();
                return Next::User;
            }
            if ended {
                return Next::End;
            }
            turn().await;
        }
    }

    async fn wait(&self, i: usize) {
        while !self.world.socket(i, |source| {
            mem::take(&mut source.event) || source.ended || !source.readable.is_empty()
        }) {
            turn().await;
        }
        self.step();
    }

    fn promote(&self, i: usize) -> bool {
        let room = |j: usize| {
            let room = |target: &mut Socket| target.has_room().then(|| target.written());
            Ok::<_, ()>(self.world.socket(1 - j, room))
        };
        let gone = promote([&self.ends[0], &self.ends[1]], i, room).unwrap();
        if gone[1 - i] {
            self.world.socket(1 - i, |source| source.event = true);
        }
        if gone != [false; 2] {
            self.step();
        }
        gone[i]
    }

    fn receive(&self, i: usize) -> Received {
        self.world.socket(i, |source| match source.readable.pop_front() {
            Some(number) => Received::Packet(number),
            // Whatever the queue still has.
            None if source.ended => Received::End,
            None => Received::Nothing,
        })
    }

    async fn relay(&self, i: usize, number: u32) {
        self.settle_before_sending(i).await;
        loop {
            let sent = self.world.socket(1 - i, |target| {
                let has_room = target.has_room();
                if has_room {
                    target.write(number);
                }
                has_room
            });
            if sent {
                break;
            }
            turn().await;
        }
        self.ends[i].relayed(LEN.into());
        self.step();
    }

    async fn settle_before_sending(&self, i: usize) {
        if self.world.case.mutant != Some(Mutant::Unsettled) {
            self.settle(i).await;
        }
    }

    async fn settle(&self, i: usize) {
        while let Some(redirected) = self.ends[i].unsettled() {
            let written = self.world.socket(1 - i, |target| target.written());
            if self.ends[i].settle(redirected, written) {
                break;
            }
            turn().await;
            // The send buffer is widened.
            self.world.socket(1 - i, |target| {
                if target.room == Some(0) {
                    target.room = Some(1);
                    self.step();
                }
            });
        }
    }
}

/// The other task's turn.
async fn turn() {
    let mut turned = false;
    poll_fn(|_| if mem::replace(&mut turned, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

/// Goes through all orders in which a thread is interrupted no more than so often where it could have
/// gone on; LOOM_MAX_PREEMPTIONS says otherwise.
fn check(interruptions: usize, case: Case) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(interruptions));
    builder.max_branches = 10_000;
    builder.check(move || {
        let world = Arc::new(World::new(case));
        let programs = [0, 1].map(|i| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.program(i))
        });
        User::new(&world).work();
        for program in programs {
            program.join().unwrap();
        }
    });
}

#[test]
fn packets_arrive_once_and_in_order_both_ways() {
    check(1, Case { packets: [3, 2], ..Case::default() });
}

#[test]
fn packets_arrive_once_and_in_order_one_way() {
    check(2, Case { packets: [2, 0], ..Case::default() });
}

#[test]
fn packets_arrive_when_the_target_nearly_keeps_up() {
    check(1, Case { packets: [3, 1], limit: 1, ..Case::default() });
}

#[test]
fn packets_arrive_when_user_space_cannot_be_told() {
    check(1, Case { packets: [2, 2], untold: 1, ..Case::default() });
}

#[test]
fn one_direction_goes_on_when_the_other_stands_still() {
    check(1, Case { packets: [2, 3], stalled: Some(1), ..Case::default() });
}

#[test]
#[should_panic = "Causality violation"]
fn an_exchange_of_the_program_that_orders_nothing_is_found() {
    let mutant = Some(Mutant::RelaxedExchange);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}

#[test]
#[should_panic = "Causality violation"]
fn an_exchange_of_user_space_that_releases_nothing_is_found() {
    let mutant = Some(Mutant::RelaxedReturn);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}

#[test]
#[should_panic = "a packet is not the next of its stream"]
fn passed_bytes_that_overtake_are_found() {
    let mutant = Some(Mutant::Unsettled);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}
