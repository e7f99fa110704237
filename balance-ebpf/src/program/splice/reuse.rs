//! Makes way for a new connection between the addresses of a pair that has ended.
//!
//! Invariants: a packet that begins a connection reaches a listener at once, and never a leftover
//! socket of the old pair. That socket would answer with a challenge ACK, and the sender would wait
//! for a second. A packet that begins no connection reaches a local socket only if that socket is
//! connecting, or if the decision says so.

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_F_INGRESS, bpf_sock_tuple},
    helpers::{bpf_clone_redirect, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock},
};
use balance_ebpf::splice::{LOOPBACK, PacketTuple, REINJECTED, Segment, flag};

use crate::{DROP, PASS, lookup::SpliceRef, packet::Scratch, rewrite::cut_to_header};

/// The states of include/net/tcp_states.h.
mod state {
    pub(super) const ESTABLISHED: u32 = 1;
    pub(super) const SYN_SENT: u32 = 2;
    pub(super) const FIN_WAIT1: u32 = 4;
    pub(super) const FIN_WAIT2: u32 = 5;
    pub(super) const CLOSE_WAIT: u32 = 8;
    pub(super) const LAST_ACK: u32 = 9;
    pub(super) const CLOSING: u32 = 11;
}

/// How often a packet is reinjected while user space holds the lock of the old socket. The socket
/// processes its reset when the lock is released.
const MAX_REINJECTIONS: u32 = 32;

/// The local socket that a packet would reach.
enum LocalSocket {
    /// None, or a listener.
    Free,
    /// A socket that is connecting.
    Connecting,
    /// A leftover of the old connection, which expects this sequence number.
    Old(u32),
}

/// Handles a packet of a pair that has ended. `None` if the packet is for the other peer.
#[inline(always)]
pub(crate) fn make_way(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    splice: &SpliceRef,
    segment: &Segment,
) -> Option<i32> {
    let begins = segment.flags & flag::SYN != 0;
    match local_socket(skb, &scratch.tuple) {
        LocalSocket::Connecting => {}
        _ if !begins => return None,
        LocalSocket::Free => {}
        LocalSocket::Old(rcv_nxt) => return Some(reset_old(skb, scratch, rcv_nxt)),
    }
    splice.give_back();
    Some(PASS)
}

/// Turns the packet into a reset of the old socket, and reinjects a copy of the packet behind it.
#[inline(always)]
fn reset_old(skb: *mut __sk_buff, scratch: &mut Scratch, rcv_nxt: u32) -> i32 {
    // SAFETY: the context is the skb that the kernel runs the program on; its mark may be written,
    // and the helper takes any interface.
    unsafe {
        let arrived_on = (*skb).ifindex;
        if scratch.reinjections >= MAX_REINJECTIONS {
            return DROP;
        }
        (*skb).mark = REINJECTED | (scratch.reinjections + 1);
        // On loopback the packet keeps its route. Without the route the kernel would not know its
        // source.
        let flags = if arrived_on == LOOPBACK { 0 } else { BPF_F_INGRESS as u64 };
        let failed = bpf_clone_redirect(skb, arrived_on, flags) != 0;
        (*skb).mark = 0;
        if failed {
            return DROP;
        }
    }
    scratch.header.fixed.make_reset(rcv_nxt);
    if cut_to_header(skb, scratch).is_some() { PASS } else { DROP }
}

/// Looks the socket up.
#[inline(always)]
fn local_socket(skb: *mut __sk_buff, tuple: &PacketTuple) -> LocalSocket {
    const HERE: u64 = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the length of a tuple selects the family (net/core/filter.c, sk_lookup), and
    // `PacketTuple` has the words of the longer one in the kernel's order. The socket is read while
    // it is held, and released on every path.
    unsafe {
        let socket = if tuple.version == 4 {
            let tuple = [tuple.source[0], tuple.target[0], tuple.ports];
            let tuple = addr_of!(tuple).cast_mut().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(skb.cast(), tuple, 12, HERE, 0)
        } else {
            let tuple = addr_of!(*tuple).cast_mut().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(skb.cast(), tuple, 36, HERE, 0)
        };
        if socket.is_null() {
            return LocalSocket::Free;
        }
        let state = (*socket).state;
        let tcp = bpf_tcp_sock(socket);
        let rcv_nxt = if tcp.is_null() { 0 } else { (*tcp).rcv_nxt };
        bpf_sk_release(socket.cast());
        match state {
            state::SYN_SENT => LocalSocket::Connecting,
            state::ESTABLISHED
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::CLOSE_WAIT
            | state::LAST_ACK
            | state::CLOSING => LocalSocket::Old(rcv_nxt),
            _ => LocalSocket::Free,
        }
    }
}
