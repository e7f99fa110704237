//! Tracks the progress of a splice and its end.
//!
//! Invariant: two processors may count at the same time. Every value that must be right is changed
//! atomically; counters for statistics may lose an increment.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::debug;
use balance_ebpf::{
    Word,
    splice::{
        Forward, Reset, Segment, SenderState, StateUpdate, acked_by_reset, advance_local_max,
        classify_reset, ending, flag, is_after,
    },
};

use crate::{
    ENDINGS, GLOBALS,
    lookup::{SpliceRef, States},
};

/// Attempts to change a word that other processors change at the same time. More than a few do not.
const MAX_ATTEMPTS: u32 = 8;

/// Whether any splice exists. Without one the program ignores all packets.
#[inline(always)]
pub(crate) fn any_entries() -> bool {
    GLOBALS.get(0).is_some_and(|globals| globals.entries.load_relaxed() != 0)
}

/// Counts a packet that goes to the local socket in `local_max_seq`, and returns the value before.
/// A full barrier. `None` if other processors interfered too often.
#[inline(always)]
pub(crate) fn count_local(splice: &SpliceRef, segment: &Segment) -> Option<u32> {
    let word = &splice.this.side.local_max_seq;
    let mut attempt = 0;
    while attempt < MAX_ATTEMPTS {
        let before = word.load_relaxed();
        if word.compare_exchange(before, advance_local_max(before, segment)) == before {
            return Some(before);
        }
        attempt += 1;
    }
    None
}

/// Notes a RST that ends the connection, or may end it.
#[inline(always)]
pub(crate) fn note_reset(
    skb: *mut __sk_buff,
    splice: &SpliceRef,
    states: &States,
    segment: &Segment,
) {
    let side = splice.side;
    let seen = match classify_reset(&states.this, &states.other, segment.seq) {
        // A peer that receives a RST may answer late packets with another one. The first RST
        // counts.
        Reset::Valid if splice.endings() & ending::of(ending::RESET, !side) != 0 => return,
        Reset::Valid => {
            ending::of(ending::RESET, side) | note_last_acknowledgement(splice, states, segment)
        }
        Reset::InWindow => ending::of(ending::RST_IN_WINDOW, side),
        Reset::Invalid => return,
    };
    note_ending(skb, splice, seen, true);
}

/// Notes the acknowledgement of a valid RST. Returns the ending bits that follow from it.
#[inline(always)]
fn note_last_acknowledgement(splice: &SpliceRef, states: &States, segment: &Segment) -> u64 {
    match acked_by_reset(&states.this, &states.other, segment) {
        Some(acked) => {
            let acked = acknowledge(&splice.other.side.sender.snd_una, acked);
            fin_acked(splice, acked)
        }
        None => 0,
    }
}

/// The bit that says that the other peer's FIN is acknowledged, if `acked` includes the FIN.
#[inline(always)]
fn fin_acked(splice: &SpliceRef, acked: u32) -> u64 {
    let other = !splice.side;
    // A FIN occupies the last number. If more is acknowledged, the packet was not the end.
    let fin = splice.other.fin_end_seq.load_relaxed();
    if splice.endings() & ending::of(ending::FIN, other) != 0 && fin == acked {
        ending::of(ending::FIN_ACKED, other)
    } else {
        0
    }
}

/// Updates the state from an accepted packet that is forwarded as `forward`.
#[inline(always)]
pub(crate) fn update_state(
    skb: *mut __sk_buff,
    splice: &SpliceRef,
    states: &States,
    segment: &Segment,
    forward: &Forward,
) {
    let SpliceRef { side, this, other, .. } = *splice;
    let update = StateUpdate::of(&states.this, &states.other, segment, forward);
    this.packets.store_relaxed(this.packets.load_relaxed() + 1);
    // SAFETY: the helper has no requirements.
    this.last_packet_ns.store_relaxed(unsafe { bpf_ktime_get_ns() });
    raise(&this.side.sender.snd_nxt, update.end);
    let sender = &other.side.sender;
    let acked = acknowledge(&sender.snd_una, update.acked);
    if !states.this.drained {
        // The local socket has sent these bytes.
        raise(&sender.snd_nxt, acked);
    }
    raise(&sender.window_right_edge, update.window_right_edge);
    if update.window > states.other.sender.max_window {
        sender.max_window.store_relaxed(update.window);
    }
    if forward.ack != update.acked {
        this.clamped_acks.add_unsynchronized(1);
    }
    let fin = ending::of(ending::FIN, side);
    let mut seen = 0;
    if segment.flags & flag::FIN != 0 {
        this.fin_end_seq.store_relaxed(update.end);
        seen |= fin;
    }
    seen |= fin_acked(splice, acked);
    if seen != 0 {
        note_ending(skb, splice, seen, seen & !fin != 0);
    }
}

/// Sets ending bits, and notifies user space if `notifies`.
#[inline(always)]
fn note_ending(skb: *mut __sk_buff, splice: &SpliceRef, seen: u64, notifies: bool) {
    let before = splice.endings();
    if before | seen == before {
        return;
    }
    splice.splice.endings.fetch_or_relaxed(seen);
    debug!(&TcContext::new(skb), "splice {}: ending bits {:x}", splice.slot, before | seen);
    if notifies {
        notify(splice.slot);
    }
}

/// Raises a sequence number.
#[inline(always)]
fn raise(word: &Word<u32>, number: u32) {
    let mut attempt = 0;
    while attempt < MAX_ATTEMPTS {
        let seen = word.load_relaxed();
        if !is_after(number, seen) || word.compare_exchange(seen, number) == seen {
            return;
        }
        attempt += 1;
    }
}

/// Raises SND.UNA. Returns the new value.
#[inline(always)]
fn acknowledge(snd_una: &Word<u64>, acked: u32) -> u32 {
    let mut attempt = 0;
    let mut seen = snd_una.load_relaxed();
    while attempt < MAX_ATTEMPTS {
        let new = SenderState::acknowledge(seen, acked);
        if new == seen {
            break;
        }
        let found = snd_una.compare_exchange(seen, new);
        if found == seen {
            return new as u32;
        }
        seen = found;
        attempt += 1;
    }
    seen as u32
}

/// Notifies user space that the splice in a slot has changed.
#[inline(always)]
pub(crate) fn notify(slot: u32) {
    if ENDINGS.output::<u32>(slot, 0).is_err()
        && let Some(globals) = GLOBALS.get(0)
    {
        globals.missed.store_relaxed(1);
    }
}
