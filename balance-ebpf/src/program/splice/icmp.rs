//! What a router says of a packet that was too big for its path goes to the peer whose packet that was.
//!
//! Invariant: it is believed only if the packet is on its way, by its number: sent, and not acknowledged by the other
//! peer. Anything else is for the local sockets, who judge by their own numbers. What is passed on they do not get: to
//! them the number says nothing.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use balance_ebpf::splice::{
    LOOPBACK, Message4, Message6, phase, read_ipv4, read_ipv6, readdress_ipv4, readdress_ipv6,
};

use crate::{
    PLACES,
    packet::{L3, Work},
    place::Place,
    way_out::go_on,
};

/// Passes the packet on if it is such a message; `None` if it is something else.
#[inline(always)]
pub(crate) fn pass_on(skb: *mut __sk_buff, work: &mut Work) -> Option<i32> {
    // SAFETY: the context is the skb that the kernel runs us on.
    let (protocol, arrived_on) = unsafe { ((*skb).protocol, (*skb).ifindex) };
    let is_ipv4 = protocol == u32::from(0x0800u16.to_be());
    if !is_ipv4 && protocol != u32::from(0x86ddu16.to_be()) {
        return None;
    }
    let message = addr_of_mut!(work.message);
    // SAFETY: so many bytes fit, and the shorter message is the beginning of the longer one.
    let quote = unsafe {
        if is_ipv4 {
            if bpf_skb_load_bytes(skb.cast(), L3, message.cast(), size_of::<Message4>() as u32) != 0
            {
                return None;
            }
            read_ipv4(&*message.cast::<Message4>())?
        } else {
            if bpf_skb_load_bytes(skb.cast(), L3, message.cast(), size_of::<Message6>() as u32) != 0
            {
                return None;
            }
            read_ipv6(&*message)?
        }
    };
    work.key = quote.key;
    let key = &work.key;
    // SAFETY: as where packets are looked for.
    let number = unsafe { PLACES.get(key) }?;
    let place = Place::of(*number)?;
    if place.phase() == phase::LOCAL || (place.home() == LOOPBACK) != (arrived_on == LOOPBACK) {
        return None;
    }
    let seq = place.in_flight(quote.seq)?;
    let onward = place.onward();
    // SAFETY: as above; the key is in the map's value, where it does not change while packets go through.
    unsafe {
        let looks = &*onward.looks;
        let failed = if is_ipv4 {
            readdress_ipv4(&mut *message.cast::<Message4>(), looks, seq, onward.head);
            bpf_skb_store_bytes(
                skb,
                L3,
                message.cast_const().cast(),
                size_of::<Message4>() as u32,
                BPF_F_RECOMPUTE_CSUM.into(),
            ) != 0
        } else {
            readdress_ipv6(&mut *message, looks, seq, onward.head);
            bpf_skb_store_bytes(
                skb,
                L3,
                message.cast_const().cast(),
                size_of::<Message6>() as u32,
                BPF_F_RECOMPUTE_CSUM.into(),
            ) != 0
        };
        if failed {
            return None;
        }
    }
    Some(go_on(skb, &onward))
}
