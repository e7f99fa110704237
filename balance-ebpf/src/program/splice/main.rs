//! The splice program: a packet of one connection goes on as a packet of another.
//!
//! Runs where packets arrive (tc ingress). It finds the splice that a packet belongs to, asks
//! `balance_ebpf::splice` what becomes of it, rewrites it and sends it on. Invariant: a packet that
//! belongs to no splice passes unchanged, except for an ICMP report about a spliced packet. Once a
//! splice has left the phase LOCAL, a packet of it that cannot be read is dropped, and a local socket
//! gets only what the judgement says.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
#[path = "../common.rs"]
mod common;
mod icmp;
mod intact;
mod packet;
mod place;
mod renew;
mod rewrite;
mod way_out;

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use balance_ebpf::{
    DEFAULT_SLOTS, EVENT_BYTES,
    splice::{
        Common, Forward, Judgement, Key, LOOPBACK, Local, REWRITTEN, Splice, TURNED, back, flag,
        phase,
    },
};

use account::{any_entries, learn, note_reset, remember, tell};
use intact::is_intact;
use packet::{Work, find, parse};
use place::{Place, Sides};
use renew::make_room;
use rewrite::{change, has_head, readdress, rewrite, stay};
use way_out::{go_on, leave, send_copy};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// From the addresses of an arriving packet to twice the slot, plus the side.
#[map]
static PLACES: HashMap<Key, u32> = HashMap::with_max_entries(DEFAULT_SLOTS, BPF_F_NO_PREALLOC);
#[map]
static SPLICES: Array<Splice> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);
#[map]
static ENDINGS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
#[map]
static COMMON: Array<Common> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The next program is asked: another balance has its own.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;

#[classifier]
fn balance_splice(ctx: TcContext) -> i32 {
    act(ctx.skb.skb).unwrap_or(PASS)
}

#[inline(always)]
fn act(skb: *mut __sk_buff) -> Option<i32> {
    // SAFETY: the context is the skb that the kernel runs us on.
    let (mark, tagged, arrived_on) = unsafe { ((*skb).mark, (*skb).vlan_present, (*skb).ifindex) };
    if mark & 0xffff_0000 == REWRITTEN {
        // SAFETY: as above; the mark may be written.
        unsafe { (*skb).mark = 0 };
        return Some(leave(mark & 0xffff));
    }
    let turns = if mark & 0xffff_0000 == TURNED { mark & 0xffff } else { 0 };
    if turns != 0 {
        // Nothing else is to see that.
        // SAFETY: as above; the mark may be written.
        unsafe { (*skb).mark = 0 };
    }
    if tagged != 0 || !any_entries() {
        // The device of a VLAN has a packet with a tag next, without it.
        return None;
    }
    // SAFETY: the element is this processor's own, and nothing of this program runs twice at a
    // time on one processor: it is called where packets arrive only.
    let work = unsafe { &mut *WORK.get_ptr_mut(0)? };
    work.turns = turns;
    let Some(end) = find(skb, work) else {
        return icmp::pass_on(skb, work);
    };
    // Not the key itself, which would be copied.
    let key = &work.key;
    // SAFETY: the element stays the map's while the program runs, and one aligned word is read of it.
    // From Linux 6.1 on it can be given to another key meanwhile, of a connection that is as new.
    let number = unsafe { PLACES.get(key) }?;
    let place = Place::of(*number)?;
    let mut phase = place.phase();
    if (place.home() == LOOPBACK) != (arrived_on == LOOPBACK) {
        // Not from where its sender is.
        return None;
    }
    if parse(skb, work, end).is_none() {
        if phase == phase::LOCAL {
            return None;
        }
        // Its other fragments must find nothing in the local socket's queue either.
        place.count_dropped();
        return Some(DROP);
    }
    let segment = work.now.fixed.segment(work.payload);
    // Of a fragment nothing can be told.
    let intact = work.odd != 0 || is_intact(skb, work, end);
    let mut before = None;
    if phase == phase::LOCAL {
        if !intact || !place.is_near(&segment) {
            // The local socket refuses it.
            return None;
        }
        if work.odd != 0 {
            place.mark_odd(&segment);
        }
        before = remember(&place, &segment);
        // Again: user space asks what is remembered after it has changed the phase, and a packet of
        // which it is not told must not go to the local socket.
        phase = place.phase();
        if phase == phase::LOCAL {
            // A packet that is not remembered is as good as lost, and comes again.
            return if before.is_some() { None } else { Some(DROP) };
        }
    }
    if work.odd != 0 {
        place.count_dropped();
        return Some(DROP);
    }
    if intact
        && place.is_over(phase)
        && let Some(action) = make_room(skb, work, &place, &segment)
    {
        return Some(action);
    }
    let (sides, judgement) = place.judge(phase, before, &segment, intact);
    if intact && segment.flags & flag::RST != 0 {
        note_reset(skb, &place, &sides, &segment);
    }
    if let (Some(forward), true) = (&judgement.forward, judgement.accepted) {
        learn(skb, &place, &sides, &segment, forward);
    }
    if judgement.settles {
        // Behind what was learnt: from now on acknowledgements are bounded by that alone.
        place.settle();
        tell(place.slot);
    }
    match judgement.forward {
        Some(forward) => pass_on(skb, work, &place, &sides, &forward, &judgement),
        None => stay(skb, work, &judgement.local),
    }
}

/// Passes a packet on to the other peer, and to the local socket what is for that.
#[inline(always)]
fn pass_on(
    skb: *mut __sk_buff,
    work: &mut Work,
    place: &Place,
    sides: &Sides,
    forward: &Forward,
    judgement: &Judgement,
) -> Option<i32> {
    let local = &judgement.local;
    let is_for_both = !matches!(local, Local::Nothing);
    if is_for_both {
        work.keep();
    }
    let onward = place.onward();
    // Asked once: where they change places the way back of their difference is 0, too.
    let is_elsewhere = onward.addresses != 0;
    let becomes_own = is_elsewhere || !has_head(work, onward.head);
    let header = change(work, place, sides, forward, judgement.accepted);
    if rewrite(skb, work, header).is_none()
        || becomes_own
            && readdress(skb, work, onward.looks, onward.addresses, onward.head).is_none()
    {
        place.count_dropped();
        return Some(DROP);
    }
    if !is_for_both {
        return Some(go_on(skb, &onward));
    }
    send_copy(skb, onward.out);
    work.take_back();
    let own = addr_of!(work.key);
    if is_elsewhere && readdress(skb, work, own, back(onward.addresses), onward.head).is_none() {
        return Some(DROP);
    }
    stay(skb, work, local)
}
