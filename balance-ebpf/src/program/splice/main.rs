//! The splice program: forwards a packet of one connection as a packet of another.
//!
//! Runs on tc ingress, where packets arrive. The program finds the splice of a packet, asks
//! `balance_ebpf::splice` for a decision, rewrites the packet and sends it on.
//!
//! Invariants:
//! - A packet that belongs to no splice passes unchanged, except for an ICMP report about a spliced
//!   packet.
//! - Once a splice has left `Phase::Local`, a packet of it that cannot be read is dropped, and a
//!   local socket receives only the part that the decision allows.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod icmp;
mod lookup;
mod packet;
mod redirect;
mod reuse;
mod rewrite;
mod tracking;
mod verify;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use balance_ebpf::{
    DEFAULT_SLOTS, EVENT_BYTES,
    splice::{
        Decision, Forward, Globals, LOOPBACK, LocalDelivery, PacketTuple, Phase, REINJECTED,
        REWRITTEN, SpliceWords, flag, inverse,
    },
};

use lookup::{SpliceRef, States};
use packet::{Scratch, parse_header, read_tuple};
use redirect::{forward_copy, redirect_neigh};
use reuse::make_way;
use rewrite::{
    deliver_local, has_hop_limit_dscp, replace_addresses, store_header, translate_header,
};
use tracking::{any_entries, count_local, note_reset, notify, update_state};
use verify::has_right_checksum;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// From the tuple of an arriving packet to twice the slot, plus the side.
#[map]
static TUPLES: HashMap<PacketTuple, u32> =
    HashMap::with_max_entries(DEFAULT_SLOTS, BPF_F_NO_PREALLOC);
#[map]
static SPLICES: Array<SpliceWords> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);
#[map]
static ENDINGS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
#[map]
static GLOBALS: Array<Globals> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The kernel runs the next program: another balance has its own.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;

#[classifier]
fn balance_splice(ctx: TcContext) -> i32 {
    act(ctx.skb.skb).unwrap_or(PASS)
}

/// Handles a packet. `None` if the packet passes unchanged.
#[inline(always)]
fn act(skb: *mut __sk_buff) -> Option<i32> {
    // SAFETY: the context is the skb that the kernel runs the program on.
    let (mark, tagged, arrived_on) = unsafe { ((*skb).mark, (*skb).vlan_present, (*skb).ifindex) };
    if mark & 0xffff_0000 == REWRITTEN {
        // SAFETY: as above; the mark may be written.
        unsafe { (*skb).mark = 0 };
        return Some(redirect_neigh(mark & 0xffff));
    }
    let reinjections = if mark & 0xffff_0000 == REINJECTED { mark & 0xffff } else { 0 };
    if reinjections != 0 {
        // The mark is for this program alone.
        // SAFETY: as above; the mark may be written.
        unsafe { (*skb).mark = 0 };
    }
    if tagged != 0 || !any_entries() {
        // A packet with a VLAN tag arrives again on the VLAN's own device, without the tag.
        return None;
    }
    // SAFETY: the element is this processor's own, and this program never runs twice at the same
    // time on one processor: the kernel calls it only where packets arrive.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    scratch.reinjections = reinjections;
    let Some(end) = read_tuple(skb, scratch) else {
        return icmp::forward_report(skb, scratch);
    };
    // By reference: a tuple by value would be copied.
    let tuple = &scratch.tuple;
    // SAFETY: the element stays in the map's memory while the program runs, and one aligned word is
    // read of it. From Linux 6.1 on the element can be reused for another tuple meanwhile, of a
    // connection that is as new.
    let slot_and_side = unsafe { TUPLES.get(tuple) }?;
    let splice = SpliceRef::get(*slot_and_side)?;
    let mut phase = splice.phase();
    if (splice.sender_ifindex() == LOOPBACK) != (arrived_on == LOOPBACK) {
        // The packet does not come from where its sender is.
        return None;
    }
    if parse_header(skb, scratch, end).is_none() {
        if phase == Phase::Local {
            return None;
        }
        // If this is a fragment, the other fragments must not find it in the local socket's queue.
        splice.count_dropped();
        return Some(DROP);
    }
    let segment = scratch.header.fixed.segment(scratch.payload);
    // A fragment has no checksum of its own.
    let intact = scratch.unforwardable != 0 || has_right_checksum(skb, scratch, end);
    let mut local_max_seq = None;
    if phase == Phase::Local {
        if !intact || !splice.is_near_local(&segment) {
            // The local socket rejects the packet.
            return None;
        }
        if scratch.unforwardable != 0 {
            splice.mark_unforwardable(&segment);
        }
        local_max_seq = count_local(&splice, &segment);
        // Read again: user space reads `local_max_seq` after it has changed the phase, and a packet
        // that is not in it must not go to the local socket.
        phase = splice.phase();
        if phase == Phase::Local {
            // A packet that could not be counted is dropped, and its sender repeats it.
            return if local_max_seq.is_some() { None } else { Some(DROP) };
        }
    }
    if scratch.unforwardable != 0 {
        splice.count_dropped();
        return Some(DROP);
    }
    if intact
        && splice.is_over(phase)
        && let Some(action) = make_way(skb, scratch, &splice, &segment)
    {
        return Some(action);
    }
    let (states, decision) = splice.decide(phase, local_max_seq, &segment, intact);
    if intact && segment.flags & flag::RST != 0 {
        note_reset(skb, &splice, &states, &segment);
    }
    if let (Some(forward), true) = (&decision.forward, decision.accepted) {
        update_state(skb, &splice, &states, &segment, forward);
    }
    if decision.drains {
        // After the state was updated: from now on the state alone bounds acknowledgements.
        splice.set_drained();
        notify(splice.slot);
    }
    match decision.forward {
        Some(forward) => forward_packet(skb, scratch, &splice, &states, &forward, &decision),
        None => deliver_local(skb, scratch, &decision.local),
    }
}

/// Forwards a packet to the other peer, and delivers the local socket's part.
#[inline(always)]
fn forward_packet(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    splice: &SpliceRef,
    states: &States,
    forward: &Forward,
    decision: &Decision,
) -> Option<i32> {
    let is_for_both = !matches!(decision.local, LocalDelivery::Nothing);
    if is_for_both {
        scratch.save_header();
    }
    let egress = splice.egress();
    let (delta, hop_limit_dscp) = (egress.address_checksum_delta, egress.hop_limit_dscp);
    // Read once: where source and target only swap, the inverse of the delta is 0 as well.
    let is_elsewhere = delta != 0;
    let replaces_ip = is_elsewhere || !has_hop_limit_dscp(scratch, hop_limit_dscp);
    let header_delta = translate_header(scratch, splice, states, forward, decision.accepted);
    if store_header(skb, scratch, header_delta).is_none()
        || replaces_ip
            && replace_addresses(
                skb,
                scratch.l4,
                &mut scratch.ip,
                scratch.tuple.version,
                egress.translated_tuple,
                delta,
                hop_limit_dscp,
            )
            .is_none()
    {
        splice.count_dropped();
        return Some(DROP);
    }
    if !is_for_both {
        return Some(redirect::forward(skb, &egress));
    }
    forward_copy(skb, egress.out_ifindex);
    scratch.restore_header();
    if is_elsewhere
        && replace_addresses(
            skb,
            scratch.l4,
            &mut scratch.ip,
            scratch.tuple.version,
            &scratch.tuple,
            inverse(delta),
            hop_limit_dscp,
        )
        .is_none()
    {
        return Some(DROP);
    }
    deliver_local(skb, scratch, &decision.local)
}
