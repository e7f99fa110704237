//! Sends a rewritten packet on, out of the host or to a local peer.
//!
//! Invariant: a rewritten packet reaches no local socket of a pair, and is never forwarded twice.

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{bpf_clone_redirect, bpf_redirect, bpf_redirect_neigh},
};
use balance_ebpf::splice::{LOOPBACK, REWRITTEN};

use crate::{PASS, lookup::Egress};

/// Forwards a rewritten packet.
#[inline(always)]
pub(crate) fn forward(skb: *mut __sk_buff, egress: &Egress) -> i32 {
    let Egress { out_ifindex, reinject, .. } = *egress;
    // SAFETY: the context is the skb that the kernel runs the program on.
    let arrived_on = unsafe { (*skb).ifindex };
    if arrived_on != LOOPBACK {
        return redirect_neigh(out_ifindex);
    }
    if out_ifindex != LOOPBACK {
        // The packet still has its sender's route, which `bpf_redirect_neigh` does not drop on all
        // kernels. A redirect to the ingress of loopback drops the route, and the program redirects
        // the packet from there.
        // SAFETY: the mark may be written; the helper takes any interface.
        return unsafe {
            (*skb).mark = REWRITTEN | out_ifindex & 0xffff;
            bpf_redirect(LOOPBACK, BPF_F_INGRESS as u64) as i32
        };
    }
    if reinject {
        // SAFETY: the helper takes any interface.
        return unsafe { bpf_redirect(LOOPBACK, 0) as i32 };
    }
    PASS
}

/// Forwards a copy of a rewritten packet.
#[inline(always)]
pub(crate) fn forward_copy(skb: *mut __sk_buff, out_ifindex: u32) {
    // SAFETY: the context is the skb that the kernel runs the program on; its mark may be written,
    // and the helper takes any interface.
    unsafe {
        let arrived_on = (*skb).ifindex;
        if arrived_on == LOOPBACK && out_ifindex == LOOPBACK {
            bpf_clone_redirect(skb, LOOPBACK, 0);
        } else {
            (*skb).mark = REWRITTEN | out_ifindex & 0xffff;
            bpf_clone_redirect(skb, arrived_on, BPF_F_INGRESS as u64);
            (*skb).mark = 0;
        }
    }
}

/// Sends a packet through an interface, to the link address of the next hop on the route.
#[inline(always)]
pub(crate) fn redirect_neigh(out_ifindex: u32) -> i32 {
    // SAFETY: the helper takes any interface; without a next hop it asks the routes.
    unsafe { bpf_redirect_neigh(out_ifindex, null_mut(), 0, 0) as i32 }
}
