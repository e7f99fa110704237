//! The way out of the host, or to a local peer, for a packet that is rewritten.
//!
//! Invariant: it is given to no socket of ours, and never sent on twice.

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{bpf_clone_redirect, bpf_redirect, bpf_redirect_neigh},
};
use balance_ebpf::splice::{LOOPBACK, REWRITTEN};

use crate::{PASS, place::Onward};

/// Sends a rewritten packet on.
#[inline(always)]
pub(crate) fn go_on(skb: *mut __sk_buff, onward: &Onward) -> i32 {
    let Onward { out, again, .. } = *onward;
    // SAFETY: the context is the skb that the kernel runs us on.
    let arrived_on = unsafe { (*skb).ifindex };
    if arrived_on != LOOPBACK {
        return leave(out);
    }
    if out != LOOPBACK {
        // It has come with the route of who sent it, which `bpf_redirect_neigh` does not let go of
        // on all kernels; on the way back to where it is it loses that.
        // SAFETY: the mark may be written; the helper takes any interface.
        return unsafe {
            (*skb).mark = REWRITTEN | out & 0xffff;
            bpf_redirect(LOOPBACK, BPF_F_INGRESS as u64) as i32
        };
    }
    if again != 0 {
        // SAFETY: the helper takes any interface.
        return unsafe { bpf_redirect(LOOPBACK, 0) as i32 };
    }
    PASS
}

/// Sends a copy of a rewritten packet on.
#[inline(always)]
pub(crate) fn send_copy(skb: *mut __sk_buff, out: u32) {
    // SAFETY: the context is the skb that the kernel runs us on; its mark may be written, and the
    // helper takes any interface.
    unsafe {
        let arrived_on = (*skb).ifindex;
        if arrived_on == LOOPBACK && out == LOOPBACK {
            bpf_clone_redirect(skb, LOOPBACK, 0);
        } else {
            (*skb).mark = REWRITTEN | out & 0xffff;
            bpf_clone_redirect(skb, arrived_on, BPF_F_INGRESS as u64);
            (*skb).mark = 0;
        }
    }
}

/// Hands a packet to an interface, with the link address of whoever is next on the route.
#[inline(always)]
pub(crate) fn leave(out: u32) -> i32 {
    // SAFETY: the helper takes any interface; without a next hop it asks the routes.
    unsafe { bpf_redirect_neigh(out, null_mut(), 0, 0) as i32 }
}
