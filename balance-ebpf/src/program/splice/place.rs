//! The splice that a packet belongs to, and which of its sides the packet came from.
//!
//! Invariant: everything is in a value of an array map, which outlives the program. User space and
//! other processors read and write there at the same time, so what can change is read and written
//! word by word, and each time anew (volatile).

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use balance_ebpf::splice::{
    Evidence, Judgement, Key, Segment, Side, Splice, Way, is_after, is_near, is_over, judge, phase,
};

use crate::SPLICES;

/// Where a packet belongs.
pub(crate) struct Place {
    /// The splice's slot.
    pub(crate) slot: u32,
    /// The side that the packet came from: 0 or 1.
    pub(crate) side: usize,
    pub(crate) splice: *mut Splice,
    /// What arrives from that side.
    pub(crate) this: *mut Way,
    /// What arrives from the other.
    pub(crate) other: *mut Way,
}

/// What is known of the side that a packet came from, and of the other.
pub(crate) type Sides = (Side, Side);

/// Where a packet goes.
pub(crate) struct Onward {
    /// How its addresses are to look.
    pub(crate) looks: *const Key,
    /// What the sum over them changes by: 0 if they stay.
    pub(crate) addresses: u32,
    /// The interface.
    pub(crate) out: u32,
    /// Not 0 if other programs on loopback have to see it.
    pub(crate) again: u32,
    /// Hop limit and DSCP.
    pub(crate) head: u32,
}

impl Place {
    /// Twice the slot, plus the side.
    #[inline(always)]
    pub(crate) fn of(number: u32) -> Option<Self> {
        let (slot, side) = (number >> 1, (number & 1) as usize);
        let splice = SPLICES.get_ptr_mut(slot)?;
        // SAFETY: `side` is 0 or 1, and there are two ways.
        unsafe {
            let ways = addr_of_mut!((*splice).ways).cast::<Way>();
            Some(Self { slot, side, splice, this: ways.add(side), other: ways.add(1 - side) })
        }
    }

    /// One of [`phase`].
    #[inline(always)]
    pub(crate) fn phase(&self) -> u32 {
        // SAFETY: a word of the value.
        unsafe { read_volatile(addr_of!((*self.splice).phase)) }
    }

    /// Lets all packets pass to the local sockets from now on.
    #[inline(always)]
    pub(crate) fn give_back(&self) {
        // SAFETY: a word of the value.
        unsafe { write_volatile(addr_of_mut!((*self.splice).phase), phase::LOCAL) };
    }

    /// The interface behind which the sender is.
    #[inline(always)]
    pub(crate) fn home(&self) -> u32 {
        // SAFETY: a word of the value.
        unsafe { read_volatile(addr_of!((*self.other).out)) }
    }

    /// Whether nothing more is to come of the connection.
    #[inline(always)]
    pub(crate) fn is_over(&self, phase: u32) -> bool {
        is_over(phase, self.endings())
    }

    /// Bits of [`ending`](balance_ebpf::splice::ending).
    #[inline(always)]
    pub(crate) fn endings(&self) -> u64 {
        // SAFETY: a word of the value.
        unsafe { read_volatile(addr_of!((*self.splice).ending)) }
    }

    /// Whether a packet is near what the local socket expects, as long as that judges it.
    #[inline(always)]
    pub(crate) fn is_near(&self, segment: &Segment) -> bool {
        // SAFETY: words of the value.
        let side = unsafe {
            Side {
                cut: read_volatile(addr_of!((*self.this).side.cut)),
                written: read_volatile(addr_of!((*self.this).side.written)),
                ..NOTHING
            }
        };
        is_near(&side, segment)
    }

    /// Judges a packet. If it was remembered and must not go to the local socket after all, `before` is
    /// how far those before it had gone.
    #[inline(always)]
    pub(crate) fn judge(
        &self,
        phase: u32,
        before: Option<u32>,
        segment: &Segment,
        intact: bool,
    ) -> (Sides, Judgement) {
        // SAFETY: both point into the value.
        unsafe {
            if is_settled(self.this) && is_settled(self.other) {
                // What most packets meet. The compiler makes it a judgement of its own.
                let (this, other) = (settled(self.this), settled(self.other));
                let judgement = judge(phase, &this, &other, segment, intact);
                return ((this, other), judgement);
            }
            let mut this = read_volatile(addr_of!((*self.this).side));
            let other = read_volatile(addr_of!((*self.other).side));
            if let Some(before) = before {
                this.next = before;
            }
            let judgement = judge(phase, &this, &other, segment, intact);
            ((this, other), judgement)
        }
    }

    /// Marks the side: its peer has acknowledged the local socket's last byte. Never taken back.
    #[inline(always)]
    pub(crate) fn settle(&self) {
        // SAFETY: a word of the value.
        unsafe { write_volatile(addr_of_mut!((*self.this).side.settled), 1) };
    }

    /// The number that a packet had from its sender, the other peer, which this side's peer was sent with `seq`; `None`
    /// if there is no such packet on its way.
    #[inline(always)]
    pub(crate) fn in_flight(&self, seq: u32) -> Option<u32> {
        // SAFETY: words of the value.
        unsafe {
            let this = addr_of!((*self.this).side);
            if read_volatile(addr_of!((*this).settled)) == 0
                && is_after(read_volatile(addr_of!((*this).written)), seq)
            {
                // The local socket has sent it, and sends it again.
                return None;
            }
            let seq = seq.wrapping_sub(read_volatile(addr_of!((*self.other).side.shift)));
            let sent = addr_of!((*self.other).side.sent);
            let acked = read_volatile(addr_of!((*sent).snd_una)) as u32;
            let next = read_volatile(addr_of!((*sent).snd_nxt));
            if is_after(acked, seq) || !is_after(next, seq) { None } else { Some(seq) }
        }
    }

    /// Where packets of the side go.
    #[inline(always)]
    pub(crate) fn onward(&self) -> Onward {
        // SAFETY: words of the value.
        unsafe {
            Onward {
                looks: addr_of!((*self.this).looks),
                addresses: read_volatile(addr_of!((*self.this).addresses)),
                out: read_volatile(addr_of!((*self.this).out)),
                again: read_volatile(addr_of!((*self.this).again)),
                head: read_volatile(addr_of!((*self.this).head)),
            }
        }
    }

    /// Marks the side: its peer sends packets that cannot be passed on.
    #[inline(always)]
    pub(crate) fn mark_odd(&self, segment: &Segment) {
        // SAFETY: a word of the value.
        unsafe { write_volatile(addr_of_mut!((*self.this).odd), segment.seq | 1) };
    }

    /// Counts a packet that goes nowhere.
    #[inline(always)]
    pub(crate) fn count_dropped(&self) {
        // SAFETY: a word of the value.
        unsafe { increment(addr_of_mut!((*self.this).dropped)) };
    }
}

/// Two processors may do it at once and count one.
///
/// # Safety
/// `count` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn increment(count: *mut u32) {
    // SAFETY: as the caller promises.
    unsafe { write_volatile(count, read_volatile(count) + 1) };
}

/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn is_settled(way: *const Way) -> bool {
    // SAFETY: as the caller promises.
    unsafe { read_volatile(addr_of!((*way).side.settled)) != 0 }
}

/// A side of which nothing is known.
const NOTHING: Side = Side {
    shift: 0,
    cut: 0,
    written: 0,
    settled: 0,
    next: 0,
    ahead: 0,
    leeway: 0,
    scale_in: 0,
    scale_out: 0,
    stamped: 0,
    unused: 0,
    stamp_shift: 0,
    reserved: 0,
    sent: Evidence { snd_una: 0, snd_nxt: 0, snd_edge: 0, max_window: 0, edge_slack: 0 },
};

/// What counts of a side once both are settled; the rest is compared with nothing any more.
///
/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn settled(way: *const Way) -> Side {
    // SAFETY: as the caller promises.
    unsafe {
        let side = addr_of!((*way).side);
        let sent = addr_of!((*side).sent);
        Side {
            shift: read_volatile(addr_of!((*side).shift)),
            settled: 1,
            scale_in: read_volatile(addr_of!((*side).scale_in)),
            scale_out: read_volatile(addr_of!((*side).scale_out)),
            stamped: read_volatile(addr_of!((*side).stamped)),
            stamp_shift: read_volatile(addr_of!((*side).stamp_shift)),
            sent: Evidence {
                snd_una: read_volatile(addr_of!((*sent).snd_una)),
                snd_nxt: read_volatile(addr_of!((*sent).snd_nxt)),
                snd_edge: read_volatile(addr_of!((*sent).snd_edge)),
                max_window: read_volatile(addr_of!((*sent).max_window)),
                edge_slack: read_volatile(addr_of!((*sent).edge_slack)),
            },
            ..NOTHING
        }
    }
}
