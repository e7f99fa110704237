//! What is kept about a splice: how far its packets have come, and how it ends.
//!
//! Invariant: two processors may count at once; what must be right is changed atomically.

use core::{
    arch::asm,
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::debug;
use balance_ebpf::splice::{
    Evidence, Forward, News, Reset, Segment, acked_by_reset, ending, flag, is_after, judge_reset,
    note,
};

use crate::{
    COMMON, ENDINGS,
    common::compare_exchange,
    place::{Place, Sides, increment},
};

/// How often a change is tried that other processors come in between of. More than a few do not.
const TURNS: u32 = 8;

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
    while turn < TURNS {
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

/// Notes that a peer has reset the connection, or may have.
#[inline(always)]
pub(crate) fn note_reset(skb: *mut __sk_buff, place: &Place, sides: &Sides, segment: &Segment) {
    let i = place.side;
    let seen = match judge_reset(&sides.0, &sides.1, segment.seq) {
        // Who is told of a reset may answer what was on its way with another; who began it counts.
        Reset::Believed if place.endings() & (ending::BROKEN << (1 - i)) != 0 => return,
        Reset::Believed => ending::BROKEN << i | note_last_acknowledgement(place, sides, segment),
        Reset::Doubted => ending::DOUBTED << i,
        Reset::Ignored => return,
    };
    note_ending(skb, place, seen, true);
}

/// Notes what a believed reset acknowledges; returns what that says of the end.
#[inline(always)]
fn note_last_acknowledgement(place: &Place, sides: &Sides, segment: &Segment) -> u64 {
    match acked_by_reset(&sides.0, &sides.1, segment) {
        // SAFETY: a word of the value.
        Some(acked) => unsafe {
            let acked = acknowledge(addr_of_mut!((*place.other).side.sent.snd_una), acked);
            end_acknowledged(place, acked)
        },
        None => 0,
    }
}

/// The bit that says that the other peer's end is acknowledged, if so much is.
#[inline(always)]
fn end_acknowledged(place: &Place, acked: u32) -> u64 {
    let other = 1 - place.side;
    // An end takes the last number: once more is acknowledged, it was none.
    // SAFETY: a word of the value.
    let fin = unsafe { read_volatile(addr_of!((*place.other).fin)) };
    if place.endings() & (ending::FIN << other) != 0 && fin == acked {
        ending::ACKNOWLEDGED << other
    } else {
        0
    }
}

/// Notes what an accepted packet says, which goes on as `forward`.
#[inline(always)]
pub(crate) fn learn(
    skb: *mut __sk_buff,
    place: &Place,
    sides: &Sides,
    segment: &Segment,
    forward: &Forward,
) {
    let Place { side: i, this, other, .. } = *place;
    let news = News::of(&sides.0, &sides.1, segment, forward);
    // SAFETY: all point into the value.
    unsafe {
        let packets = addr_of_mut!((*this).packets);
        write_volatile(packets, read_volatile(packets) + 1);
        write_volatile(addr_of_mut!((*this).last), bpf_ktime_get_ns());
        raise(addr_of_mut!((*this).side.sent.snd_nxt), news.end);
        let acked = acknowledge(addr_of_mut!((*other).side.sent.snd_una), news.acked);
        if sides.0.settled == 0 {
            // What our socket has sent.
            raise(addr_of_mut!((*other).side.sent.snd_nxt), acked);
        }
        raise(addr_of_mut!((*other).side.sent.snd_edge), news.edge);
        if news.window > sides.1.sent.max_window {
            write_volatile(addr_of_mut!((*other).side.sent.max_window), news.window);
        }
        if forward.ack != news.acked {
            increment(addr_of_mut!((*this).clamped));
        }
        let mut seen = 0;
        if segment.flags & flag::FIN != 0 {
            write_volatile(addr_of_mut!((*this).fin), news.end);
            seen |= ending::FIN << i;
        }
        seen |= end_acknowledged(place, acked);
        if seen != 0 {
            note_ending(skb, place, seen, seen & !(ending::FIN << i) != 0);
        }
    }
}

/// Notes what is seen of the end, and tells user space if it `matters` there.
#[inline(always)]
fn note_ending(skb: *mut __sk_buff, place: &Place, seen: u64, matters: bool) {
    let before = place.endings();
    if before | seen == before {
        return;
    }
    // SAFETY: a word of the value.
    or(unsafe { addr_of_mut!((*place.splice).ending) }, seen);
    debug!(&TcContext::new(skb), "splice {}: end seen, {:x}", place.slot, before | seen);
    if matters {
        tell(place.slot);
    }
}

/// Raises a sequence number.
///
/// # Safety
/// `half` must be an aligned half of a word of a map value.
#[inline(always)]
unsafe fn raise(half: *mut u32, number: u32) {
    let mut turn = 0;
    while turn < TURNS {
        // SAFETY: as the caller promises.
        unsafe {
            let seen = read_volatile(half);
            if !is_after(number, seen) || compare_exchange_half(half, seen, number) == seen {
                return;
            }
        }
        turn += 1;
    }
}

/// Raises what is acknowledged; returns how far that is now.
///
/// # Safety
/// `word` must be an aligned word of a map value.
#[inline(always)]
unsafe fn acknowledge(word: *mut u64, acked: u32) -> u32 {
    let mut turn = 0;
    // SAFETY: as the caller promises.
    let mut seen = unsafe { read_volatile(word) };
    while turn < TURNS {
        let new = Evidence::acknowledge(seen, acked);
        if new == seen {
            break;
        }
        // SAFETY: as the caller promises.
        let found = unsafe { compare_exchange(word, seen, new) };
        if found == seen {
            return new as u32;
        }
        seen = found;
        turn += 1;
    }
    seen as u32
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
