//! One direction of one connection, as the BPF program and user space both see it.
//!
//! One word, `state`, decides which of the two moves the bytes. It is [`KERNEL`] while the program
//! redirects. Otherwise it is [`USER`] plus the number of bytes that the program has passed to user
//! space since. The program turns KERNEL into USER when too much is outstanding, or when the flow
//! in the other direction is in USER. Only user space turns USER back, by a compare-exchange that
//! fails if the program has passed another byte.
//!
//! Invariants:
//! - Bytes reach the target in the order in which they left the source, because user space sends no
//!   passed byte before the target has written everything that was redirected earlier.
//! - While a flow is in USER nothing is redirected to its source, except for the moments in which
//!   the target has not written everything that was redirected before. Otherwise the packets that
//!   the socket passes up would queue behind its unsent packets, charged to no socket, and its
//!   window would never close (net/core/skmsg.c, sk_psock_verdict_apply).

use core::cell::UnsafeCell;

use crate::shared::{Word, word_enum};

/// `state` while the program redirects.
pub const KERNEL: u64 = 0;

/// Bit of `state` that is set while user space moves the bytes.
pub const USER: u64 = 1 << 63;

/// Cost, in bytes, between two comparisons with the target's position.
pub const QUANTUM: u32 = 128 << 10;

/// Cost of a packet in addition to its payload, in bytes: the memory of its buffer and bookkeeping
/// in the kernel. With it a flood of one-byte packets is bounded like a flood of data.
pub const SKB_OVERHEAD: u32 = 1 << 10;

/// Bytes that were passed to user space since the flow was handed to it. `None` while in the
/// kernel.
#[inline(always)]
pub const fn passed(state: u64) -> Option<u64> {
    if state & USER == 0 { None } else { Some(state & !USER) }
}

/// Why the program gave a flow up. User space then resets the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// There is no fault.
    #[default]
    None = 0,
    /// Bytes are missing between two packets.
    Gap = 1,
    /// The kernel's packets do not have the expected form: sequence numbers and length differ.
    Shape = 2,
    /// The program could not cut off repeated bytes.
    Trim = 3,
}

word_enum!(Fault: u32 = [None, Gap, Shape, Trim]);

/// One direction of a connection in shared memory: the bytes that arrive on a source and leave on
/// its target.
///
/// A cache line of its own, so that flows on different processors do not disturb each other.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Flow {
    /// [`KERNEL`], or [`USER`] plus the bytes passed since. Changed by compare-exchange only.
    pub state: Word<u64>,
    /// Bytes redirected since the flow was set up. Written by the program only.
    pub redirected: Word<u64>,
    /// The bytes that are outstanding at the target. Written by the program while in KERNEL, by
    /// user space while in USER.
    pub backlog: UnsafeCell<Backlog>,
    /// The source's position in its stream. Used by the program only.
    pub position: UnsafeCell<Position>,
    /// Why the program gave the flow up. Written by the program only.
    pub fault: Word<Fault>,
}

// SAFETY: other threads and the BPF program use the words atomically, and the other fields only
// while they own them.
unsafe impl Sync for Flow {}

/// Where the source's stream stands: the sequence number that the next packet must have.
///
/// A packet on the receive queue may begin with bytes that were there before (a retransmission that
/// reaches further, possibly merged by GRO). A read from the socket skips them. The path to a
/// verdict does not (net/ipv4/tcp.c, tcp_read_skb), so the program does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    next: u32,
    /// 0 until [`begin`](Self::begin) has been called.
    known: u32,
}

impl Position {
    /// Whether the position is known.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.known != 0
    }

    /// Sets the sequence number of the next byte. User space has read everything before it, even if
    /// a packet on the queue still has those bytes.
    #[inline(always)]
    pub const fn begin(&mut self, next: u32) {
        *self = Self { next, known: 1 };
    }

    /// Moves on over a packet with these sequence numbers and `len` bytes. Returns how many of its
    /// bytes were seen before and must be cut off.
    ///
    /// # Errors
    /// A [`Fault`] if the packet does not continue the stream.
    #[inline(always)]
    pub fn advance(&mut self, seq: u32, end: u32, len: u32) -> Result<u32, Fault> {
        // A FIN occupies one number more than there are bytes.
        let extra = end.wrapping_sub(seq).wrapping_sub(len);
        if extra > 1 {
            return Err(Fault::Shape);
        }
        let seen = self.next.wrapping_sub(seq);
        if seen as i32 > len as i32 || (seen as i32) < 0 {
            return Err(Fault::Gap);
        }
        self.begin(seq.wrapping_add(len));
        Ok(seen)
    }
}

/// The bytes that were redirected and not yet written to the target's send queue, as an upper bound
/// of their memory: payload plus [`SKB_OVERHEAD`] for each packet.
///
/// Exact positions of single packets would need a queue. Two marks are enough for a bound: when
/// everything up to the mark is written, its cost is settled and a new mark is set. Costs wrap
/// around; only their differences count, which stay far below 2^31.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that the target had written when nothing had been redirected. Bytes that user space
    /// sends itself raise it.
    pub base: u64,
    /// Value of `redirected` when the mark was set.
    pub mark: u64,
    /// `cost` when the mark was set.
    pub mark_cost: u32,
    /// Cost of everything redirected so far.
    pub cost: u32,
    /// Cost that is known to have been written.
    pub settled: u32,
    /// Cost at which to compare again.
    pub next_check: u32,
}

impl Backlog {
    /// Accounts for a redirected packet of `len` bytes. True when [`is_over_limit`] is due.
    ///
    /// [`is_over_limit`]: Self::is_over_limit
    #[inline(always)]
    pub fn charge(&mut self, len: u32) -> bool {
        self.cost = self.cost.wrapping_add(len).wrapping_add(SKB_OVERHEAD);
        self.cost.wrapping_sub(self.next_check) as i32 >= 0
    }

    /// Compares with the target, which has `written` bytes in all and holds `queued` bytes of
    /// memory in its send queue, after `redirected` bytes were sent to it. True when more than
    /// `limit` is outstanding.
    #[inline(always)]
    pub fn is_over_limit(
        &mut self,
        written: u64,
        queued: u32,
        redirected: u64,
        limit: u32,
    ) -> bool {
        self.next_check = self.cost.wrapping_add(QUANTUM);
        // Both count up to the same 64-bit sum and wrap together.
        let position = written.wrapping_sub(self.base) as i64;
        if position >= self.mark as i64 {
            self.settled = self.mark_cost;
            self.mark = redirected;
            self.mark_cost = self.cost;
        }
        queued.saturating_add(self.unwritten()) > limit
    }

    /// An upper bound on the cost of the bytes that have not been written.
    #[inline(always)]
    pub fn unwritten(&self) -> u32 {
        self.cost.wrapping_sub(self.settled)
    }

    /// Starts again when user space hands the flow to the kernel with everything written. `base` is
    /// as for the field, `redirected` as in the flow.
    pub fn restart(&mut self, base: u64, redirected: u64) {
        *self = Backlog { base, mark: redirected, next_check: QUANTUM, ..Backlog::default() };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::mem::{align_of, offset_of, size_of};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn a_flow_is_one_cache_line_with_the_state_word_first() {
        assert_eq!(size_of::<Flow>(), 64);
        assert_eq!(align_of::<Flow>(), 64);
        assert_eq!(offset_of!(Flow, state), 0);
        assert_eq!(offset_of!(Flow, redirected), 8);
        assert_eq!(offset_of!(Flow, backlog), 16);
        assert_eq!(offset_of!(Flow, position), 48);
        assert_eq!(offset_of!(Flow, fault), 56);
    }

    #[test]
    fn the_state_word_says_which_side_moves_the_bytes() {
        assert_eq!(passed(KERNEL), None);
        assert_eq!(passed(USER), Some(0));
        assert_eq!(passed(USER + 77), Some(77));
    }

    #[test]
    fn a_stalled_receiver_is_noticed_within_a_quantum() {
        let mut backlog = Backlog::default();
        let (limit, len) = (4 << 20, 1448);
        let mut redirected = 0;
        while !(backlog.charge(len) && backlog.is_over_limit(0, 0, redirected, limit)) {
            redirected += u64::from(len);
        }
        assert!(backlog.cost <= limit + QUANTUM + len + SKB_OVERHEAD, "{backlog:?}");
    }

    #[test]
    fn one_byte_packets_are_bounded_by_memory_and_not_by_payload() {
        let mut backlog = Backlog::default();
        let mut packets = 0;
        while !(backlog.charge(1) && backlog.is_over_limit(0, 0, packets + 1, 4 << 20)) {
            packets += 1;
        }
        assert!(packets < 5 << 10, "{packets}");
    }

    #[test]
    fn an_unexpected_packet_is_a_fault() {
        let mut position = Position::default();
        position.begin(100);
        assert_eq!(position.advance(100, 210, 100), Err(Fault::Shape));
        assert_eq!(position.advance(100, 200, 100), Ok(0));
        assert_eq!(position.advance(201, 300, 99), Err(Fault::Gap));
        assert_eq!(position.advance(50, 151, 101), Err(Fault::Gap));
    }

    #[test]
    fn bytes_that_user_space_has_read_are_cut_off_the_first_packet() {
        let mut position = Position::default();
        assert!(!position.is_known());
        position.begin(130);
        assert!(position.is_known());
        assert_eq!(position.advance(100, 200, 100), Ok(30));
    }

    proptest! {
        /// The stream itself is left after cutting off the bytes seen before, however the stream is
        /// cut into packets and retransmitted.
        #[test]
        fn overlapping_packets_leave_the_stream(
            start in any::<u32>(),
            packets in prop::collection::vec((1u32..3000, 0u32..3000), 1..100),
        ) {
            let mut position = Position::default();
            position.begin(start);
            let mut delivered = 0u32;
            for (i, (fresh, again)) in packets.iter().enumerate() {
                let again = if i == 0 { 0 } else { (*again).min(delivered) };
                let seq = start.wrapping_add(delivered - again);
                let len = again + fresh;
                let fin = u32::from(i + 1 == packets.len());
                prop_assert_eq!(position.advance(seq, seq.wrapping_add(len + fin), len), Ok(again));
                delivered += fresh;
            }
        }

        /// The bound on unwritten bytes is never below the real number.
        #[test]
        fn the_bound_holds_for_any_sequence_of_packets_and_writes(
            start in any::<u32>(),
            cost in any::<u32>(),
            queued in 0u32..2 << 20,
            steps in prop::collection::vec((1u32..70_000, 0usize..4), 1..400),
        ) {
            let mut backlog = Backlog { cost, ..Backlog::default() };
            backlog.restart(u64::from(start), 0);
            let mut queue: VecDeque<u32> = VecDeque::new();
            let mut written = u64::from(start);
            let mut redirected = 0;
            for (len, writes) in steps {
                redirected += u64::from(len);
                queue.push_back(len);
                backlog.charge(len);
                for len in (0..writes).filter_map(|_| queue.pop_front()) {
                    written += u64::from(len);
                }
                let real: u32 = queue.iter().map(|len| len + SKB_OVERHEAD).sum::<u32>();
                let over = backlog.is_over_limit(written, queued, redirected, 1 << 20);
                prop_assert!(backlog.unwritten() >= real);
                prop_assert!(over || queued + real <= 1 << 20);
            }
        }

        #[test]
        fn a_target_that_writes_at_once_and_is_read_is_never_over(
            lens in prop::collection::vec(1u32..70_000, 1..400),
        ) {
            let mut backlog = Backlog::default();
            backlog.restart(1, 0);
            let mut redirected = 0;
            for len in lens {
                redirected += u64::from(len);
                backlog.charge(len);
                prop_assert!(!backlog.is_over_limit(1 + redirected, 0, redirected, 256 << 10));
            }
        }
    }
}
