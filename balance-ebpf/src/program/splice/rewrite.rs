//! A packet becomes what the other peer, or the local socket, is to see.
//!
//! Invariant: what goes on has right checksums if it had, and wrong ones if not. What is cut for the
//! local socket gets a new one; no checksum is looked at here, as little as by a device.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::{
        bpf_csum_diff, bpf_ktime_get_ns, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_loop,
        bpf_skb_change_tail, bpf_skb_store_bytes,
    },
};
use balance_ebpf::splice::{
    Change, Difference, FIXED, Forward, Key, Local, MOST_OPTIONS, Stamps, fold, is_own_ipv4,
    own_ipv4, own_ipv6, rewrite_usual_options, step_options,
};

use crate::{
    DROP, PASS, WORK,
    packet::{L3, TCP, Work, header_len, load},
    place::{Place, Sides},
};

/// Where the checksum is in a TCP header.
const CHECK: u32 = 16;

/// Makes the header what the other peer is to see; what the checksum changes by. The first timestamp of
/// an accepted packet tells how the sender's clock stands to the other one.
#[inline(always)]
pub(crate) fn change(
    work: &mut Work,
    place: &Place,
    sides: &Sides,
    forward: &Forward,
    accepted: bool,
) -> u32 {
    let (this, (side, other)) = (place.this, sides);
    // SAFETY: a word of the value.
    let ports = unsafe { read_volatile(addr_of!((*this).looks.ports)) };
    let difference = work.now.fixed.pass_on(ports, forward);
    if work.header_len == FIXED {
        return difference.sum();
    }
    let mut change = Change {
        stamps: match side.stamped {
            0 => Stamps::None,
            1 if accepted => Stamps::Unknown,
            1 => Stamps::Untrusted,
            _ => Stamps::Known,
        },
        stamp: side.stamp_shift,
        clock: 0,
        echo: if other.stamped == 2 { Some(other.stamp_shift) } else { None },
        sack: if forward.without_sack { None } else { Some(other.shift) },
        blocks: 0,
    };
    if side.stamped == 1 {
        // SAFETY: a word of the value.
        change.clock = unsafe {
            let now = (bpf_ktime_get_ns() / 1_000_000) as u32;
            read_volatile(addr_of!((*this).clock)).wrapping_add(now)
        };
    }
    let len = (work.header_len - FIXED) as usize;
    let options = match rewrite_usual_options(&mut work.now.options, len, &mut change) {
        Some(difference) => difference.sum(),
        None => {
            work.change = change;
            let options = rewrite_others(work);
            change = work.change;
            options
        }
    };
    // SAFETY: words of the value. Two processors may see the first timestamp at once, and would
    // come to about the same; and they may spoil a count.
    unsafe {
        if side.stamped == 1 && change.stamps == Stamps::Known {
            write_volatile(addr_of_mut!((*this).side.stamp_shift), change.stamp);
            write_volatile(addr_of_mut!((*this).side.stamped), 2);
        }
        if accepted && change.blocks > 0 {
            let sacks = addr_of_mut!((*this).sacks);
            write_volatile(sacks, read_volatile(sacks) + change.blocks);
        }
    }
    difference.and(0, options).sum()
}

/// Changes options that are not the usual ones; what the checksum changes by.
#[inline(always)]
fn rewrite_others(work: &mut Work) -> u32 {
    let options = work.now.options.as_mut_ptr().cast();
    work.at = 0;
    // What is behind their end makes no difference.
    let most = MOST_OPTIONS as u32;
    // SAFETY: `option` has the signature that the helper calls; it needs no context. And there are as
    // many bytes of options.
    unsafe {
        let before = bpf_csum_diff(null_mut(), 0, options, most, 0);
        bpf_loop(most, option as *mut c_void, null_mut(), 0);
        let after = bpf_csum_diff(null_mut(), 0, options, most, 0);
        Difference::NONE.and(before as u32, after as u32).sum()
    }
}

/// One turn of `rewrite_others`, called by the helper: 0 to go on, 1 to stop.
unsafe extern "C" fn option(_turn: u64, _: *mut c_void) -> i64 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the element is this processor's own; who called the helper does not use it meanwhile.
    let work = unsafe { &mut *work };
    let (len, at) = (work.header_len.wrapping_sub(FIXED) as usize, work.at as usize);
    match step_options(&mut work.now.options, len, at, &mut work.change) {
        Some(next) => {
            work.at = next as u32;
            0
        }
        None => 1,
    }
}

/// Gives the packet the header that it is to have, of which the checksum changes by that.
#[inline(always)]
pub(crate) fn rewrite(skb: *mut __sk_buff, work: &Work, difference: u32) -> Option<()> {
    let len = header_len(work)?;
    // SAFETY: there are so many bytes; the place was found by parsing.
    let failed = unsafe {
        bpf_skb_store_bytes(skb, work.l4, addr_of!(work.now).cast(), len, 0) != 0
            || bpf_l4_csum_replace(skb, work.l4 + CHECK, 0, difference.into(), 0) != 0
    };
    if failed { None } else { Some(()) }
}

/// Whether the packet has this hop limit and DSCP already; of IPv6 no flow label as well.
#[inline(always)]
pub(crate) fn has_head(work: &Work, head: u32) -> bool {
    let [a, b, _] = work.ip;
    match work.key.version {
        4 => is_own_ipv4(work.ip, head),
        _ => own_ipv6([a, b], head) == [a, b],
    }
}

/// Gives the packet other addresses, over which the sum changes by that, and this hop limit and DSCP.
#[inline(always)]
pub(crate) fn readdress(
    skb: *mut __sk_buff,
    work: &mut Work,
    looks: *const Key,
    difference: u32,
    head: u32,
) -> Option<()> {
    let (check, pseudo) = (work.l4 + CHECK, u64::from(BPF_F_PSEUDO_HDR));
    // SAFETY: all lengths are those of the values; offsets were found by parsing.
    let failed = unsafe {
        if bpf_l4_csum_replace(skb, check, 0, difference.into(), pseudo) != 0 {
            return None;
        }
        if work.key.version == 4 {
            let [a, b, c] = own_ipv4(work.ip, head, difference);
            work.ip = [a, b, c];
            let words = [a, b, c, (*looks).source[0], (*looks).target[0]];
            bpf_skb_store_bytes(skb, L3, addr_of!(words).cast(), 20, 0) != 0
        } else {
            let [a, b] = own_ipv6([work.ip[0], work.ip[1]], head);
            let Key { source, target, .. } = *looks;
            let words = [
                a, b, source[0], source[1], source[2], source[3], target[0], target[1], target[2],
                target[3],
            ];
            bpf_skb_store_bytes(skb, L3, addr_of!(words).cast(), 40, 0) != 0
        }
    };
    if failed { None } else { Some(()) }
}

/// Gives the packet to the local socket, as far as it is for it. It has the addresses that it arrived
/// with; its header has yet to be written.
#[inline(always)]
pub(crate) fn stay(skb: *mut __sk_buff, work: &mut Work, local: &Local) -> Option<i32> {
    let done = match *local {
        Local::Nothing => None,
        Local::Whole(ack) => {
            let difference = work.now.fixed.acknowledge(ack).sum();
            rewrite(skb, work, difference)
        }
        Local::Acknowledgement(seq, ack) => {
            work.now.fixed.acknowledge_only(seq, ack);
            cut(skb, work)
        }
    };
    Some(if done.is_some() { PASS } else { DROP })
}

/// Leaves nothing of the packet but its new header.
#[inline(always)]
pub(crate) fn cut(skb: *mut __sk_buff, work: &mut Work) -> Option<()> {
    let len = header_len(work)?;
    let l3_len = work.l4 - L3 + len;
    // The addresses, the length and the protocol, as the checksum has them (RFC 9293, 3.1);
    // nothing is added by the zeros behind addresses of IPv4.
    let mut pseudo = [len.to_be(), u32::from(TCP).to_be()];
    // SAFETY: all lengths are those of the values; offsets were found by parsing.
    unsafe {
        if bpf_skb_change_tail(skb, L3 + l3_len, 0) != 0 {
            return None;
        }
        let sum = bpf_csum_diff(null_mut(), 0, pseudo.as_mut_ptr().cast(), 8, 0);
        let addresses = addr_of_mut!(work.key).cast();
        let sum = bpf_csum_diff(null_mut(), 0, addresses, 32, sum as u32);
        let header = addr_of_mut!(work.now).cast();
        let sum = bpf_csum_diff(null_mut(), 0, header, header_len(work)?, sum as u32);
        work.now.fixed.set_check(!fold(sum as u32));
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let len = header_len(work)?;
        if bpf_skb_store_bytes(skb, work.l4, addr_of!(work.now).cast(), len, flags) != 0 {
            return None;
        }
        if work.key.version != 4 {
            let new = (len as u16).to_be();
            return match bpf_skb_store_bytes(skb, L3 + 4, addr_of!(new).cast(), 2, 0) {
                0 => Some(()),
                _ => None,
            };
        }
        let mut old = [0u8; 2];
        load(skb, L3 + 2, &mut old)?;
        let old = u16::from_ne_bytes(old);
        let new = (l3_len as u16).to_be();
        let failed = bpf_l3_csum_replace(skb, L3 + 10, u64::from(old), u64::from(new), 2) != 0
            || bpf_skb_store_bytes(skb, L3 + 2, addr_of!(new).cast(), 2, 0) != 0;
        if failed { None } else { Some(()) }
    }
}
