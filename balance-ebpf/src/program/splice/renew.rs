//! A pair that is over makes room for a new connection between the same addresses.
//!
//! Invariants: a packet that begins a connection reaches a listener at once, and never a socket of ours that is
//! left of the old one: there it would be met with a question, and its sender wait for a second. A packet
//! that begins no connection gets to a local socket only if that socket asks for a connection, or if the
//! judgement says so.

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_F_INGRESS, bpf_sock_tuple},
    helpers::{bpf_clone_redirect, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock},
};
use balance_ebpf::splice::{Key, LOOPBACK, Segment, TURNED, flag};

use crate::{DROP, PASS, packet::Work, place::Place, rewrite::cut};

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

/// How often a packet comes round while user space is in the middle of something with the old socket, which hears of
/// its reset only then.
const MOST_TURNS: u32 = 32;

/// The local socket that a packet would reach.
enum Local {
    /// None, or a listener.
    Free,
    /// It asks for a connection.
    Asks,
    /// It is left of the old connection, and waits for this number.
    Old(u32),
}

/// What becomes of a packet of a pair that is over, if it is not for the other peer.
#[inline(always)]
pub(crate) fn make_room(
    skb: *mut __sk_buff,
    work: &mut Work,
    place: &Place,
    segment: &Segment,
) -> Option<i32> {
    let begins = segment.flags & flag::SYN != 0;
    match find(skb, &work.key) {
        Local::Asks => {}
        _ if !begins => return None,
        Local::Free => {}
        Local::Old(next) => return Some(turn(skb, work, next)),
    }
    place.give_back();
    Some(PASS)
}

/// Resets the old socket, and has the packet come again behind that.
#[inline(always)]
fn turn(skb: *mut __sk_buff, work: &mut Work, next: u32) -> i32 {
    // SAFETY: the context is the skb that the kernel runs us on; its mark may be written, and the helper takes any
    // interface.
    unsafe {
        let arrived_on = (*skb).ifindex;
        if work.turns >= MOST_TURNS {
            return DROP;
        }
        (*skb).mark = TURNED | (work.turns + 1);
        // On loopback it keeps its route, without which it would be from nowhere.
        let flags = if arrived_on == LOOPBACK { 0 } else { BPF_F_INGRESS as u64 };
        let failed = bpf_clone_redirect(skb, arrived_on, flags) != 0;
        (*skb).mark = 0;
        if failed {
            return DROP;
        }
    }
    work.now.fixed.reset_only(next);
    if cut(skb, work).is_some() { PASS } else { DROP }
}

/// Finds the socket.
#[inline(always)]
fn find(skb: *mut __sk_buff, key: &Key) -> Local {
    const HERE: u64 = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuples are of the lengths that tell the family (net/core/filter.c, sk_lookup): a key has the words of
    // the longer one in its order. What is found is read while it is held, and let go of on every way.
    unsafe {
        let socket = if key.version == 4 {
            let tuple = [key.source[0], key.target[0], key.ports];
            let tuple = addr_of!(tuple).cast_mut().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(skb.cast(), tuple, 12, HERE, 0)
        } else {
            let tuple = addr_of!(*key).cast_mut().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(skb.cast(), tuple, 36, HERE, 0)
        };
        if socket.is_null() {
            return Local::Free;
        }
        let state = (*socket).state;
        let tcp = bpf_tcp_sock(socket);
        let next = if tcp.is_null() { 0 } else { (*tcp).rcv_nxt };
        bpf_sk_release(socket.cast());
        match state {
            state::SYN_SENT => Local::Asks,
            state::ESTABLISHED
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::CLOSE_WAIT
            | state::LAST_ACK
            | state::CLOSING => Local::Old(next),
            _ => Local::Free,
        }
    }
}
