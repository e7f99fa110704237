//! A model of the hand-over that runs its steps in all orders, under a weak memory model.
//!
//! The model runs the code of the program and of user space on loom's atomics. The program runs on
//! two threads, one for each direction, as on two processors. User space runs on a third thread,
//! where its two tasks alternate as on a worker. Loom goes through the orders in which the threads
//! can take their steps, and through the values that each load may still see by the memory model.
//! An access to the backlog that is not ordered after the last one is an error by itself. A checker
//! of interleavings alone would not suffice: the program's loads acquire nothing, and its processor
//! may reorder.
//!
//! LOOM_MAX_PREEMPTIONS=2 searches deeper. That takes minutes in an optimised build, which is too
//! long for every change.
//!
//! `Socket` models the kernel: the queue, which passed bytes share with bytes to be sent, and the
//! kernel's worker, which empties the queue as late as possible. The tasks of user space are those
//! of `offload.rs` in short, with the same waits.
//!
//! Invariants that the model checks:
//! - Each packet reaches the target once and after the packet before it, at any moment, so the time
//!   of a reset does not matter.
//! - All packets reach the target, wherever a stream ends.
//! - When all tasks wait, all work is done, even with a peer that never reads.
//! - The backlog restarts only with everything written.

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

use super::{
    flow::{Backlog, QUANTUM, USER},
    handover::{PacketAction, ProgramWords, UserEnd, UserWords, on_packet, promote},
};
use crate::shared::{PerSide, Side};

/// Bytes of each packet: large enough that the program looks at the target with every packet.
const LEN: u32 = QUANTUM;

/// The parameters of one check.
#[derive(Clone, Copy, Default)]
struct Case {
    /// Packets that arrive from each source.
    packets: [u32; 2],
    /// The largest amount that a flow may have outstanding, in packets.
    limit: u32,
    /// Hand-overs of each flow that find no room in the event buffer.
    unnotified: u32,
    /// The peer that never reads, if there is one. Its socket has room for one packet.
    stalled: Option<usize>,
    /// The defect to insert, if any.
    mutant: Option<Mutant>,
}

/// A defect that the model must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// The program's exchange orders nothing.
    RelaxedExchange,
    /// User space's exchange releases nothing.
    RelaxedReturn,
    /// User space sends passed bytes before all earlier bytes are written.
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
    fn load_relaxed(&self) -> u64 {
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
        // SAFETY: loom reports any concurrent access.
        self.backlog.with_mut(|backlog| work(unsafe { &mut *backlog }))
    }
}

/// A socket: the source of the flow with its number, and the target of the other flow.
#[derive(Default)]
struct Socket {
    /// Packets that the kernel's worker has not sent or passed to user space yet.
    queue: VecDeque<Queued>,
    /// Packets that user space can read.
    readable: VecDeque<u32>,
    /// The peer has ended its stream.
    ended: bool,
    /// User space was notified about the flow whose source this is.
    event: bool,
    /// Packets written to the socket.
    written: u32,
    /// Packets that the socket takes before its peer reads. `None` if the peer reads at once.
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

    /// Does the next step of the kernel's worker. False if there is none.
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

    /// Whether a redirected packet is not yet written.
    fn owes(&self) -> bool {
        self.queue.iter().any(|queued| matches!(queued, Queued::Send(_)))
    }
}

/// A connection.
struct World {
    case: Case,
    flows: [Words; 2],
    /// Each with a counter of its uses. The counter makes loom try the other order, and orders the
    /// uses as the kernel's locks do, in one step instead of two.
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

    /// The program's part: the packets of a source, and the end of its stream.
    fn program(&self, i: usize) {
        let [flow, other] = [&self.flows[i], &self.flows[1 - i]];
        let unnotified = Cell::new(self.case.unnotified);
        let notify = || {
            if unnotified.get() > 0 {
                unnotified.set(unnotified.get() - 1);
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
            match on_packet(&flow, Some(&other), LEN, limit, notify, target, is_clear) {
                PacketAction::Pass => self.socket(i, |source| {
                    if source.queue.is_empty() {
                        source.readable.push_back(number);
                    } else {
                        source.queue.push_back(Queued::PassUp(number));
                    }
                }),
                PacketAction::Redirect | PacketAction::RedirectAndHandBack => {
                    self.socket(1 - i, |target| target.queue.push_back(Queued::Send(number)));
                }
            }
            self.wake.notify();
        }
        self.socket(i, |source| source.ended = true);
        self.wake.notify();
    }
}

/// User space's words, with the world to check against.
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
        assert!(!owes, "the backlog restarts while a packet is not written");
        // SAFETY: loom reports any concurrent access.
        self.words().backlog.with_mut(|backlog| work(unsafe { &mut *backlog }));
    }
}

/// The worker, with the two tasks of the connection.
struct User<'a> {
    world: &'a World,
    ends: [UserEnd<Mapped<'a>>; 2],
    /// Steps that the tasks have taken.
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

    /// Runs both tasks until nothing is left to do. Runs the kernel's worker when both tasks wait.
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
            // A stream to a peer that never reads does not end.
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
        let room = |side: Side| {
            let room = |target: &mut Socket| target.has_room().then(|| target.written());
            Ok::<_, ()>(self.world.socket((!side).index(), room))
        };
        let ends = PerSide::new(&self.ends[0], &self.ends[1]);
        let gone = promote(ends, Side::from_bit(i as u32), room).unwrap().into_array();
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
            // Whatever is still in the queue.
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
            // The send buffer is enlarged.
            self.world.socket(1 - i, |target| {
                if target.room == Some(0) {
                    target.room = Some(1);
                    self.step();
                }
            });
        }
    }
}

/// Lets the other task run.
async fn turn() {
    let mut turned = false;
    poll_fn(|_| if mem::replace(&mut turned, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

/// Checks all orders with at most this number of preemptions. LOOM_MAX_PREEMPTIONS overrides it.
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
fn packets_arrive_when_user_space_cannot_be_notified() {
    check(1, Case { packets: [2, 2], unnotified: 1, ..Case::default() });
}

#[test]
fn one_direction_continues_while_the_other_stalls() {
    check(1, Case { packets: [2, 3], stalled: Some(1), ..Case::default() });
}

#[test]
#[should_panic = "Causality violation"]
fn a_relaxed_exchange_of_the_program_is_found() {
    let mutant = Some(Mutant::RelaxedExchange);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}

#[test]
#[should_panic = "Causality violation"]
fn a_relaxed_exchange_of_user_space_is_found() {
    let mutant = Some(Mutant::RelaxedReturn);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}

#[test]
#[should_panic = "a packet is not the next of its stream"]
fn passed_bytes_that_overtake_are_found() {
    let mutant = Some(Mutant::Unsettled);
    check(1, Case { packets: [2, 1], mutant, ..Case::default() });
}
