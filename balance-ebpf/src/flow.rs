//! One direction of one connection, as the BPF program and user space both see it.
//!
//! Who moves the bytes is decided by one word, `state`. It is [`KERNEL`] while the program
//! redirects, or [`USER`] plus the number of bytes the program has passed up since. The
//! program turns KERNEL into USER when too much is outstanding, or when the flow in the other
//! direction is in USER; only user space turns USER back, by a compare-exchange that fails if a
//! byte was passed meanwhile. Invariants: bytes reach the target in the order in which they left
//! the source, because user space sends no passed byte before the target has written all that
//! was redirected earlier. While a flow is in USER nothing is redirected to its source, but for
//! the moments in which the target has yet to write what was redirected before: packets
//! that a socket passes up would queue behind packets that it has yet to send, charged to
//! nobody, and its window would never close (net/core/skmsg.c, sk_psock_verdict_apply).

/// `state` while the program redirects.
pub const KERNEL: u64 = 0;

/// Bit of `state` that is set while user space moves the bytes.
pub const USER: u64 = 1 << 63;

/// Cost, in bytes, between two looks at how far the target has come.
pub const QUANTUM: u32 = 128 << 10;

/// Cost of a packet beside its payload, in bytes: what its buffer and bookkeeping take in the
/// kernel, so that a flood of one-byte packets is bounded like a flood of data.
pub const SKB_OVERHEAD: u32 = 1 << 10;

/// Bytes passed to user space since the flow was handed to it; `None` while in the kernel.
#[inline(always)]
pub const fn passed(state: u64) -> Option<u64> {
    if state & USER == 0 { None } else { Some(state & !USER) }
}

/// Why the program gave a flow up; user space then resets the connection.
pub mod fault {
    /// Nothing is wrong.
    pub const NONE: u32 = 0;
    /// Bytes are missing between two packets.
    pub const GAP: u32 = 1;
    /// The kernel does not describe packets as we read it: sequence numbers and length differ.
    pub const SHAPE: u32 = 2;
    /// Bytes that came twice could not be cut off.
    pub const TRIM: u32 = 3;
}

/// One direction of a connection: the bytes that arrive on a source and leave on its target.
///
/// A cache line of its own, so that flows on different processors do not disturb each other.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Flow {
    /// [`KERNEL`], or [`USER`] plus the bytes passed since. Changed by compare-exchange only.
    pub state: u64,
    /// Bytes redirected since the flow was set up. Written by the program only.
    pub redirected: u64,
    /// The program's view of what is outstanding at the target. Written by the program while
    /// in KERNEL, by user space while in USER.
    pub backlog: Backlog,
    /// The source's position in its stream. Written by the program only.
    pub position: Position,
    /// One of [`fault`]. Written by the program only.
    pub fault: u32,
}

/// Where the source's stream stands: the sequence number that the next packet must have.
///
/// A packet on the receive queue may begin with bytes that were there before (a
/// retransmission that reaches further, possibly merged by GRO). Readers of sockets skip them;
/// the path to a verdict does not (net/ipv4/tcp.c, tcp_read_skb), so the program does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    next: u32,
    /// 0 until [`begin`](Self::begin) has been called.
    known: u32,
}

impl Position {
    /// Whether it is known where the stream stands.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.known != 0
    }

    /// The next byte is the one with this sequence number: what came before has been read by
    /// user space, also if a packet on the queue still has it.
    #[inline(always)]
    pub const fn begin(&mut self, next: u32) {
        *self = Self { next, known: 1 };
    }

    /// Moves on over a packet with these sequence numbers and `len` bytes; says how many of
    /// its bytes have been seen before and must be cut off.
    ///
    /// # Errors
    /// One of [`fault`].
    #[inline(always)]
    pub fn advance(&mut self, seq: u32, end: u32, len: u32) -> Result<u32, u32> {
        // A FIN takes one number more than there are bytes.
        let extra = end.wrapping_sub(seq).wrapping_sub(len);
        if extra > 1 {
            return Err(fault::SHAPE);
        }
        let seen = self.next.wrapping_sub(seq);
        if seen as i32 > len as i32 || (seen as i32) < 0 {
            return Err(fault::GAP);
        }
        self.begin(seq.wrapping_add(len));
        Ok(seen)
    }
}

/// How much has been redirected and not yet written to the target's send queue: an upper bound
/// of its memory, in bytes of payload plus [`SKB_OVERHEAD`] for each packet.
///
/// Exact positions of single packets would need a queue; two marks are enough for a bound:
/// when everything up to the mark is written its cost is settled and a new mark is set.
/// Costs wrap around; only their differences count, which stay far below 2^31.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// What the target had written when nothing had been redirected; bytes that user space sent
    /// itself move it up.
    pub base: u64,
    /// Value of `redirected` when the mark was set.
    pub mark: u64,
    /// `cost` when the mark was set.
    pub mark_cost: u32,
    /// Cost of everything redirected so far.
    pub cost: u32,
    /// Cost known to have been written.
    pub settled: u32,
    /// Cost at which to compare again.
    pub next_check: u32,
}

impl Backlog {
    /// Accounts for a redirected packet of `len` bytes; true when it is time to [`judge`].
    ///
    /// [`judge`]: Self::judge
    #[inline(always)]
    pub fn charge(&mut self, len: u32) -> bool {
        self.cost = self.cost.wrapping_add(len).wrapping_add(SKB_OVERHEAD);
        self.cost.wrapping_sub(self.next_check) as i32 >= 0
    }

    /// Compares with the target, which has `written` bytes in all and holds `queued` bytes of
    /// memory in its send queue, when `redirected` bytes have been sent its way; true when more
    /// than `limit` is outstanding.
    #[inline(always)]
    pub fn judge(&mut self, written: u64, queued: u32, redirected: u64, limit: u32) -> bool {
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

    /// An upper bound on the cost of what has not been written.
    #[inline(always)]
    pub fn unwritten(&self) -> u32 {
        self.cost.wrapping_sub(self.settled)
    }

    /// Starts afresh when user space hands the flow to the kernel, with everything written:
    /// `base` as described there, `redirected` as it stands.
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
    fn the_state_word_tells_who_moves_the_bytes() {
        assert_eq!(passed(KERNEL), None);
        assert_eq!(passed(USER), Some(0));
        assert_eq!(passed(USER + 77), Some(77));
    }

    #[test]
    fn a_receiver_that_stands_still_is_noticed_within_a_quantum() {
        let mut backlog = Backlog::default();
        let (limit, len) = (4 << 20, 1448);
        let mut redirected = 0;
        while !(backlog.charge(len) && backlog.judge(0, 0, redirected, limit)) {
            redirected += u64::from(len);
        }
        assert!(backlog.cost <= limit + QUANTUM + len + SKB_OVERHEAD, "{backlog:?}");
    }

    #[test]
    fn one_byte_packets_are_bounded_by_memory_and_not_by_payload() {
        let mut backlog = Backlog::default();
        let mut packets = 0;
        while !(backlog.charge(1) && backlog.judge(0, 0, packets + 1, 4 << 20)) {
            packets += 1;
        }
        assert!(packets < 5 << 10, "{packets}");
    }

    #[test]
    fn a_packet_that_is_not_as_expected_is_a_fault() {
        let mut position = Position::default();
        position.begin(100);
        assert_eq!(position.advance(100, 210, 100), Err(fault::SHAPE));
        assert_eq!(position.advance(100, 200, 100), Ok(0));
        assert_eq!(position.advance(201, 300, 99), Err(fault::GAP));
        assert_eq!(position.advance(50, 151, 101), Err(fault::GAP));
    }

    #[test]
    fn what_user_space_has_read_of_the_first_packet_is_cut_off() {
        let mut position = Position::default();
        assert!(!position.is_known());
        position.begin(130);
        assert!(position.is_known());
        assert_eq!(position.advance(100, 200, 100), Ok(30));
    }

    proptest! {
        /// However a stream is cut into packets and retransmitted, cutting off what is said to
        /// be seen leaves the stream itself.
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

        /// What counts as unwritten is never less than what is really unwritten.
        #[test]
        fn the_bound_holds_for_any_course_of_packets_and_writes(
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
                let over = backlog.judge(written, queued, redirected, 1 << 20);
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
                prop_assert!(!backlog.judge(1 + redirected, 0, redirected, 256 << 10));
            }
        }
    }
}
