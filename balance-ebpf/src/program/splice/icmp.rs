//! Forwards an ICMP report about a packet that was too big for its path to the peer that sent the
//! packet.
//!
//! Invariant: a report counts only if the quoted packet is in flight by its sequence number: sent,
//! and not acknowledged by the other peer. Any other report is for the local sockets, which check
//! it against their own numbers. The local sockets do not receive a forwarded report, because they
//! do not know its number.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use balance_ebpf::{
    Shared as _,
    splice::{
        IcmpWords4, IcmpWords6, LOOPBACK, PacketTuple, Phase, read_ipv4, read_ipv6, translate_ipv4,
        translate_ipv6,
    },
};

use crate::{
    TUPLES,
    lookup::SpliceRef,
    packet::{L3, Scratch},
    redirect::forward,
};

/// Forwards the packet if it is such a report. `None` if it is not.
#[inline(always)]
pub(crate) fn forward_report(skb: *mut __sk_buff, scratch: &mut Scratch) -> Option<i32> {
    // SAFETY: the context is the skb that the kernel runs the program on.
    let (protocol, arrived_on) = unsafe { ((*skb).protocol, (*skb).ifindex) };
    let is_ipv4 = protocol == u32::from(0x0800u16.to_be());
    if !is_ipv4 && protocol != u32::from(0x86ddu16.to_be()) {
        return None;
    }
    let message = addr_of_mut!(scratch.icmp);
    // SAFETY: that many bytes fit, and the shorter report is the beginning of the longer one.
    let quoted = unsafe {
        if is_ipv4 {
            if bpf_skb_load_bytes(skb.cast(), L3, message.cast(), size_of::<IcmpWords4>() as u32)
                != 0
            {
                return None;
            }
            read_ipv4(&*message.cast::<IcmpWords4>())?
        } else {
            if bpf_skb_load_bytes(skb.cast(), L3, message.cast(), size_of::<IcmpWords6>() as u32)
                != 0
            {
                return None;
            }
            read_ipv6(&*message)?
        }
    };
    scratch.tuple = quoted.tuple;
    let tuple = &scratch.tuple;
    // SAFETY: as for any packet, in `act`.
    let slot_and_side = unsafe { TUPLES.get(tuple) }?;
    let splice = SpliceRef::get(*slot_and_side)?;
    if splice.phase() == Phase::Local
        || (splice.sender_ifindex() == LOOPBACK) != (arrived_on == LOOPBACK)
    {
        return None;
    }
    let seq = splice.in_flight(quoted.seq)?;
    let egress = splice.egress();
    let translated = &PacketTuple::load_relaxed(egress.translated_tuple);
    // SAFETY: as above.
    unsafe {
        let failed = if is_ipv4 {
            translate_ipv4(
                &mut *message.cast::<IcmpWords4>(),
                translated,
                seq,
                egress.hop_limit_dscp,
            );
            bpf_skb_store_bytes(
                skb,
                L3,
                message.cast_const().cast(),
                size_of::<IcmpWords4>() as u32,
                BPF_F_RECOMPUTE_CSUM.into(),
            ) != 0
        } else {
            translate_ipv6(&mut *message, translated, seq, egress.hop_limit_dscp);
            bpf_skb_store_bytes(
                skb,
                L3,
                message.cast_const().cast(),
                size_of::<IcmpWords6>() as u32,
                BPF_F_RECOMPUTE_CSUM.into(),
            ) != 0
        };
        if failed {
            return None;
        }
    }
    Some(forward(skb, &egress))
}
