//! The array of flows that the BPF program and user space share, mapped into this process.
//!
//! Invariants: no other file accesses the memory of a flow. The state word is changed only by
//! compare-exchange. The other fields belong to the program or to user space as `Flow` describes.

use std::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use balance_ebpf::{
    Word,
    sockmap::{Backlog, Fault, Flow, KERNEL, USER, handover::UserWords, passed},
};

use crate::datapath::offload::mapped::Mapped;

/// All flows, by slot.
#[derive(Debug)]
pub(super) struct Flows(pub(super) Mapped<Flow>);

impl Flows {
    /// The flow in a slot.
    pub(super) fn get(&self, slot: u32) -> FlowRef<'_> {
        FlowRef { flow: self.0.get(slot), _array: PhantomData }
    }
}

/// One flow in shared memory.
#[derive(Clone, Copy)]
pub(super) struct FlowRef<'a> {
    flow: NonNull<Flow>,
    _array: PhantomData<&'a Flows>,
}

impl FlowRef<'_> {
    fn flow(&self) -> &Flow {
        // SAFETY: within the mapping, which is borrowed. Each field is a word or an `UnsafeCell`.
        // Only `reset` writes the flow as a whole, when nothing else uses the slot.
        unsafe { self.flow.as_ref() }
    }

    fn state_word(&self) -> &AtomicU64 {
        self.flow().state.as_atomic()
    }

    fn redirected_word(&self) -> &AtomicU64 {
        self.flow().redirected.as_atomic()
    }

    /// Prepares a slot for a new connection: in USER, with no byte moved. No cookie may lead the
    /// program to the slot yet, and no connection may count its bytes.
    pub(super) fn reset(&self) {
        // SAFETY: within the mapping. Nothing else uses the slot: it was just leased, no cookie
        // leads the program to it, and the counting for the slot's last connection ended with that
        // connection.
        unsafe { self.flow.write_volatile(Flow { state: Word::new(USER), ..Flow::default() }) };
    }

    /// Declares that no packet will come from the source, because the source is not in the map.
    pub(super) fn retire(&self) {
        self.exchange(USER, KERNEL);
    }

    /// Whether the kernel moves the bytes.
    pub(super) fn is_in_kernel(&self) -> bool {
        passed(self.state()).is_none()
    }

    /// The fault that the program has found in the flow, if any. The program has neither passed nor
    /// redirected a byte after the fault.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match self.flow().fault.load_seq_cst() {
            Fault::None => None,
            Fault::Gap => Some("bytes are missing"),
            Fault::Trim => Some("repeated bytes could not be removed"),
            Fault::Shape => Some("the packets of this kernel have an unknown layout"),
        }
    }
}

impl UserWords for FlowRef<'_> {
    fn state(&self) -> u64 {
        self.state_word().load(SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> bool {
        self.state_word().compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }

    fn redirected(&self) -> u64 {
        self.redirected_word().load(SeqCst)
    }

    fn backlog(&self, work: impl FnOnce(&mut Backlog)) {
        // SAFETY: within the mapping. `UserEnd` calls this in USER, which it has acquired. The
        // program does not access these fields until the flow is handed to it, and no other thread
        // has this `UserEnd`.
        unsafe {
            let backlog: *mut Backlog = self.flow().backlog.get();
            let mut copy = backlog.read_volatile();
            work(&mut copy);
            backlog.write_volatile(copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balance_ebpf::{
        PerSide, Side,
        sockmap::{
            QUANTUM,
            handover::{PacketAction, ProgramWords, UserEnd, on_packet, promote},
        },
    };
    use std::{
        cell::UnsafeCell,
        sync::{
            atomic::Ordering::{AcqRel, Relaxed},
            mpsc,
        },
        thread,
    };

    /// Stands for the mapping, so that Miri sees the accesses.
    #[derive(Default)]
    struct Memory([UnsafeCell<Flow>; 2]);

    // SAFETY: threads access words that change atomically, and fields that the hand-over has given
    // to one thread. The test checks the hand-over.
    unsafe impl Sync for Memory {}

    impl Memory {
        fn get(&self, slot: usize) -> FlowRef<'_> {
            FlowRef { flow: NonNull::new(self.0[slot].get()).unwrap(), _array: PhantomData }
        }
    }

    /// The program's side of a flow, on Rust's atomics.
    struct Program<'a>(FlowRef<'a>);

    impl ProgramWords for Program<'_> {
        fn load_relaxed(&self) -> u64 {
            self.0.state_word().load(Relaxed)
        }

        fn exchange(&self, current: u64, new: u64) -> u64 {
            let word = self.0.state_word();
            word.compare_exchange(current, new, AcqRel, Relaxed).unwrap_or_else(|seen| seen)
        }

        fn add_redirected(&self, len: u32) -> u64 {
            self.0.redirected_word().fetch_add(len.into(), Relaxed) + u64::from(len)
        }

        fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R {
            // SAFETY: `on_packet` calls this while the flow belongs to the program.
            work(unsafe { &mut *self.0.flow().backlog.get() })
        }
    }

    #[test]
    fn a_flow_keeps_its_order_while_it_changes_hands() {
        const PACKETS: u32 = if cfg!(miri) { 100 } else { 10_000 };
        let memory = Memory::default();
        (0..2).for_each(|slot| memory.get(slot).reset());
        memory.get(1).retire();
        let [written, given_up] = [AtomicU64::new(0), AtomicU64::new(0)];
        let (pass, passed) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let pass = pass;
                let program = Program(memory.get(0));
                for number in 0..PACKETS {
                    // Without this the program could pass all packets before user space runs.
                    while number % 4 == 0 && program.load_relaxed() & USER != 0 {
                        thread::yield_now();
                    }
                    let target = || Some((written.load(SeqCst), 0));
                    let course =
                        on_packet(&program, None, QUANTUM, QUANTUM / 2, || true, target, || true);
                    if course == PacketAction::Pass {
                        pass.send(number).unwrap();
                        continue;
                    }
                    given_up
                        .fetch_add(u64::from(course == PacketAction::RedirectAndHandBack), Relaxed);
                    // The packet is the next one only if user space has sent all earlier packets.
                    let before = written.fetch_add(QUANTUM.into(), SeqCst);
                    assert_eq!(before, u64::from(number) * u64::from(QUANTUM));
                }
            });
            let ends = [0, 1].map(|slot| UserEnd::new(memory.get(slot)));
            let settle = |end: &UserEnd<_>| {
                while let Some(redirected) = end.unsettled()
                    && !end.settle(redirected, written.load(SeqCst))
                {
                    thread::yield_now();
                }
            };
            let room = |_| Ok::<_, ()>(Some(written.load(SeqCst)));
            loop {
                if !ends[0].is_in_kernel() {
                    settle(&ends[0]);
                    promote(PerSide::new(&ends[0], &ends[1]), Side::Client, room).unwrap();
                }
                match passed.try_recv() {
                    Ok(number) => {
                        settle(&ends[0]);
                        let before = written.fetch_add(QUANTUM.into(), SeqCst);
                        assert_eq!(before, u64::from(number) * u64::from(QUANTUM));
                        ends[0].relayed(QUANTUM.into());
                    }
                    Err(mpsc::TryRecvError::Empty) => thread::yield_now(),
                    Err(mpsc::TryRecvError::Disconnected) => break,
                }
            }
        });
        assert_eq!(written.into_inner(), u64::from(PACKETS) * u64::from(QUANTUM));
        assert_ne!(given_up.into_inner(), 0, "the flow has never changed hands");
    }
}
