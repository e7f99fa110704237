//! What is kept about a splice: how far its packets have come, and how it ends.
//!
//! Invariant: two processors may count at once; what must be right is changed atomically.

use core::{
    arch::asm,
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::debug;
use balance_ebpf::splice::{Forward, Segment, Way, ending, flag, is_after, later, note};

use crate::{
    COMMON, ENDINGS,
    common::compare_exchange,
    place::{Place, Sides, increment},
};

/// Whether there is any splice: else packets need not be looked at.
#[inline(always)]
pub(crate) fn any_entries() -> bool {
    // SAFETY: a word of a map value; volatile because user space writes it.
    COMMON.get_ptr(0).is_some_and(|all| unsafe { read_volatile(addr_of!((*all).entries)) != 0 })
}

/// Remembers that a packet goes to the local socket; how far they had gone before it. A full barrier.
/// `None` if other processors have come in between, again and again.
#[inline(always)]
pub(crate) fn remember(place: &Place, segment: &Segment) -> Option<u32> {
    let mut turn = 0;
    while turn < 4 {
        // SAFETY: a half of a word of the value.
        unsafe {
            let next = addr_of_mut!((*place.this).side.next);
            let before = read_volatile(next);
            if compare_exchange_half(next, before, note(before, segment)) == before {
                return Some(before);
            }
        }
        turn += 1;
    }
    None
}

/// Counts a packet that goes on, and notes what it tells about the end of the connection.
#[inline(always)]
pub(crate) fn count(
    skb: *mut __sk_buff,
    place: &Place,
    sides: &Sides,
    segment: &Segment,
    forward: Option<&Forward>,
) {
    let Place { slot, side: i, splice, this, other } = *place;
    let (side, other_side) = sides;
    // SAFETY: all point into the value.
    unsafe {
        let mut endings = 0;
        let progress = addr_of_mut!((*this).progress);
        let seen = read_volatile(progress);
        if segment.flags & flag::RST != 0 {
            if (*this).is_believed(segment.seq, seen) {
                // Who is told of a reset may answer what was on its way with another; who began it
                // counts.
                let before = read_volatile(addr_of!((*splice).ending));
                if before & (ending::BROKEN << (1 - i)) == 0 {
                    endings |= ending::BROKEN << i;
                }
            } else if (*this).is_plausible(segment.seq) {
                endings |= ending::DOUBTED << i;
            }
        }
        if let Some(forward) = forward {
            let packets = addr_of_mut!((*this).packets);
            write_volatile(packets, read_volatile(packets) + 1);
            write_volatile(addr_of_mut!((*this).last), bpf_ktime_get_ns());
            let carries = segment.flags & (flag::SYN | flag::RST) == 0;
            let counts = carries && segment.takes() > 0 && (*this).is_plausible(segment.end());
            let said_here = segment.ack.wrapping_sub(other_side.shift);
            let mut acked = forward.ack;
            if counts {
                advance(this, segment.end());
            }
            if carries {
                let room = u32::from(forward.window) << (side.scale_out & 15);
                let edge = addr_of_mut!((*other).edge);
                write_volatile(edge, later(read_volatile(edge), forward.ack.wrapping_add(room)));
                write_volatile(addr_of_mut!((*other).side.acked), forward.ack);
                let said = addr_of_mut!((*this).said);
                let mut sent = (*other).next(read_volatile(addr_of!((*other).progress)));
                sent = sent.wrapping_add(other_side.shift);
                if side.settled == 0 {
                    // What our socket has said itself.
                    sent = later(sent, side.written);
                }
                if !is_after(segment.ack, sent) {
                    write_volatile(said, later(read_volatile(said), segment.ack));
                    // Also if less is passed on: the other peer may be gone, and ask no more.
                    acked = said_here;
                }
                if forward.ack != said_here {
                    increment(addr_of_mut!((*this).clamped));
                }
            }
            if counts && segment.flags & flag::FIN != 0 {
                write_volatile(addr_of_mut!((*this).fin), segment.end());
                endings |= ending::FIN << i;
            }
            let seen = read_volatile(addr_of!((*splice).ending));
            let fin = read_volatile(addr_of!((*other).fin));
            if seen & (ending::FIN << (1 - i)) != 0 && !is_after(fin, acked) {
                endings |= ending::ACKNOWLEDGED << (1 - i);
            }
        }
        let ending = addr_of_mut!((*splice).ending);
        let before = read_volatile(ending);
        if before | endings != before {
            or(ending, endings);
            debug!(&TcContext::new(skb), "splice {}: end seen, {:x}", slot, before | endings);
            if endings & !(ending::FIN << i) != 0 {
                tell(slot);
            }
        }
    }
}

/// Counts up to a number, if that is beyond what has been counted.
///
/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn advance(way: *mut Way, end: u32) {
    let mut turn = 0;
    // Another processor may come in between; more than a few do not.
    while turn < 4 {
        // SAFETY: as the caller promises.
        unsafe {
            let progress = addr_of_mut!((*way).progress);
            let seen = read_volatile(progress);
            let fresh = end.wrapping_sub((*way).next(seen));
            if !is_after(fresh, 0)
                || compare_exchange(progress, seen, seen + u64::from(fresh)) == seen
            {
                return;
            }
        }
        turn += 1;
    }
}

/// Tells user space to look at the slot.
#[inline(always)]
pub(crate) fn tell(slot: u32) {
    if ENDINGS.output::<u32>(slot, 0).is_err()
        && let Some(common) = COMMON.get_ptr_mut(0)
    {
        // SAFETY: a word of a map value.
        unsafe { write_volatile(addr_of_mut!((*common).missed), 1) };
    }
}

/// [`compare_exchange`] for half a word.
///
/// # Safety
/// `half` must be an aligned half of a word of a map value.
#[inline(always)]
unsafe fn compare_exchange_half(half: *mut u32, current: u32, new: u32) -> u32 {
    let mut seen = current;
    // SAFETY: the half is one, as the caller promises, and no register but those named is touched.
    unsafe {
        asm!(
            "w0 = cmpxchg32_32({half} + 0, w0, {new})",
            half = in(reg) half,
            new = in(wreg) new,
            inout("w0") seen,
        );
    }
    seen
}

/// The BPF instruction of that name.
#[inline(always)]
fn or(word: *mut u64, bits: u64) {
    // SAFETY: `word` is an aligned word of a map value.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) |= {bits}",
            word = in(reg) word,
            bits = in(reg) bits,
        );
    }
}
