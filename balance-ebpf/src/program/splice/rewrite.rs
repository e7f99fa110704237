//! Rewrites a packet for the other peer, or for the local socket.
//!
//! Invariant: a forwarded packet has right checksums if it arrived with right ones, and wrong ones
//! if not. A packet that is cut for the local socket gets a new checksum. No checksum is verified
//! here.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, null_mut},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_loop, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
};
use balance_ebpf::splice::{
    ChecksumDelta, FIXED, Forward, LocalDelivery, MAX_OPTIONS, OptionRewrite, PacketTuple,
    Timestamps, TsDelta, TupleWords, fold, has_hop_limit_dscp as has_hop_limit_dscp_v4,
    rewrite_usual_options, step_options, with_hop_limit_dscp_v4, with_hop_limit_dscp_v6,
};

use crate::{
    DROP, PASS, SCRATCH,
    lookup::{SpliceRef, States},
    packet::{L3, Scratch, TCP, header_len, load},
};

/// Offset of the checksum in a TCP header.
const CHECK: u32 = 16;

/// Translates the TCP header for the other peer. Returns the change of the checksum. The first
/// timestamp of an accepted packet sets the distance between the sender's clock and the other
/// connection's clock.
#[inline(always)]
pub(crate) fn translate_header(
    scratch: &mut Scratch,
    splice: &SpliceRef,
    states: &States,
    forward: &Forward,
    accepted: bool,
) -> u32 {
    let (direction, States { this, other }) = (splice.this, states);
    let ports = direction.translated_tuple.ports.load_relaxed();
    let delta = scratch.header.fixed.forward_as(ports, forward);
    if scratch.header_len == FIXED {
        return delta.sum();
    }
    let mut rewrite = OptionRewrite {
        ts_state: match this.timestamps {
            Timestamps::Off | Timestamps::Unused => TsDelta::None,
            Timestamps::DeltaUnknown if accepted => TsDelta::Unknown,
            Timestamps::DeltaUnknown => TsDelta::Untrusted,
            Timestamps::DeltaKnown => TsDelta::Known,
        },
        ts_delta: this.ts_delta,
        ts_clock: 0,
        echo_delta: match other.timestamps {
            Timestamps::DeltaKnown => Some(other.ts_delta),
            _ => None,
        },
        sack_delta: if forward.without_sack { None } else { Some(other.seq_delta) },
        sack_blocks: 0,
    };
    if this.timestamps == Timestamps::DeltaUnknown {
        rewrite.ts_clock = splice.ts_clock();
    }
    let len = (scratch.header_len - FIXED) as usize;
    let options = match rewrite_usual_options(&mut scratch.header.options, len, &mut rewrite) {
        Some(delta) => delta.sum(),
        None => {
            scratch.option_rewrite = rewrite;
            let delta = rewrite_other_options(scratch);
            rewrite = scratch.option_rewrite;
            delta
        }
    };
    // Two processors may see the first timestamp at the same time, and would get about the same
    // delta.
    if this.timestamps == Timestamps::DeltaUnknown && rewrite.ts_state == TsDelta::Known {
        direction.side.ts_delta.store_relaxed(rewrite.ts_delta);
        direction.side.timestamps.store_relaxed(Timestamps::DeltaKnown);
    }
    if accepted && rewrite.sack_blocks > 0 {
        direction.sack_blocks.add_unsynchronized(rewrite.sack_blocks);
    }
    delta.and(0, options).sum()
}

/// Rewrites options that are not the usual ones. Returns the change of the checksum.
#[inline(always)]
fn rewrite_other_options(scratch: &mut Scratch) -> u32 {
    let options = scratch.header.options.as_mut_ptr().cast();
    scratch.option_at = 0;
    // The bytes behind the end of the options do not change, so they make no difference.
    let max = MAX_OPTIONS as u32;
    // SAFETY: `rewrite_option` has the signature that the helper calls, and needs no context. The
    // options have that many bytes.
    unsafe {
        let before = bpf_csum_diff(null_mut(), 0, options, max, 0);
        bpf_loop(max, rewrite_option as *mut c_void, null_mut(), 0);
        let after = bpf_csum_diff(null_mut(), 0, options, max, 0);
        ChecksumDelta::NONE.and(before as u32, after as u32).sum()
    }
}

/// One iteration of `rewrite_other_options`, called by the helper: 0 to continue, 1 to stop.
unsafe extern "C" fn rewrite_option(_iteration: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the element is this processor's own, and the caller of the helper does not use it
    // meanwhile.
    let scratch = unsafe { &mut *scratch };
    let (len, at) = (scratch.header_len.wrapping_sub(FIXED) as usize, scratch.option_at as usize);
    match step_options(&mut scratch.header.options, len, at, &mut scratch.option_rewrite) {
        Some(next) => {
            scratch.option_at = next as u32;
            0
        }
        None => 1,
    }
}

/// Writes the TCP header into the packet. `delta` is the change of the checksum.
#[inline(always)]
pub(crate) fn store_header(skb: *mut __sk_buff, scratch: &Scratch, delta: u32) -> Option<()> {
    let len = header_len(scratch)?;
    // SAFETY: the header has that many bytes; the offset was found by parsing.
    let failed = unsafe {
        bpf_skb_store_bytes(skb, scratch.l4, addr_of!(scratch.header).cast(), len, 0) != 0
            || bpf_l4_csum_replace(skb, scratch.l4 + CHECK, 0, delta.into(), 0) != 0
    };
    if failed { None } else { Some(()) }
}

/// Whether the packet already has this hop limit and DSCP, and no IPv6 flow label.
#[inline(always)]
pub(crate) fn has_hop_limit_dscp(scratch: &Scratch, hop_limit_dscp: u32) -> bool {
    let [a, b, _] = scratch.ip;
    match scratch.tuple.version {
        4 => has_hop_limit_dscp_v4(scratch.ip, hop_limit_dscp),
        _ => with_hop_limit_dscp_v6([a, b], hop_limit_dscp) == [a, b],
    }
}

/// The addresses of a tuple, word by word.
pub(crate) trait Addresses {
    fn source(&self, word: usize) -> u32;
    fn target(&self, word: usize) -> u32;
}

impl Addresses for PacketTuple {
    #[inline(always)]
    fn source(&self, word: usize) -> u32 {
        self.source[word]
    }

    #[inline(always)]
    fn target(&self, word: usize) -> u32 {
        self.target[word]
    }
}

impl Addresses for TupleWords {
    #[inline(always)]
    fn source(&self, word: usize) -> u32 {
        self.source[word].load_relaxed()
    }

    #[inline(always)]
    fn target(&self, word: usize) -> u32 {
        self.target[word].load_relaxed()
    }
}

/// Replaces the addresses of the packet, its hop limit and its DSCP. `ip` is the IP header up to
/// the addresses, `delta` the change of a checksum by the new addresses.
#[inline(always)]
pub(crate) fn replace_addresses(
    skb: *mut __sk_buff,
    l4: u32,
    ip: &mut [u32; 3],
    version: u32,
    new: &impl Addresses,
    delta: u32,
    hop_limit_dscp: u32,
) -> Option<()> {
    let (check, pseudo) = (l4 + CHECK, u64::from(BPF_F_PSEUDO_HDR));
    // SAFETY: all lengths are those of the values; offsets were found by parsing.
    let failed = unsafe {
        if bpf_l4_csum_replace(skb, check, 0, delta.into(), pseudo) != 0 {
            return None;
        }
        if version == 4 {
            let [a, b, c] = with_hop_limit_dscp_v4(*ip, hop_limit_dscp, delta);
            *ip = [a, b, c];
            let words = [a, b, c, new.source(0), new.target(0)];
            bpf_skb_store_bytes(skb, L3, addr_of!(words).cast(), 20, 0) != 0
        } else {
            let [a, b] = with_hop_limit_dscp_v6([ip[0], ip[1]], hop_limit_dscp);
            let words = [
                a,
                b,
                new.source(0),
                new.source(1),
                new.source(2),
                new.source(3),
                new.target(0),
                new.target(1),
                new.target(2),
                new.target(3),
            ];
            bpf_skb_store_bytes(skb, L3, addr_of!(words).cast(), 40, 0) != 0
        }
    };
    if failed { None } else { Some(()) }
}

/// Delivers the local socket's part of a packet. The packet has the addresses with which it
/// arrived, and its TCP header is not written yet.
#[inline(always)]
pub(crate) fn deliver_local(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    local: &LocalDelivery,
) -> Option<i32> {
    let done = match *local {
        LocalDelivery::Nothing => None,
        LocalDelivery::Segment(ack) => {
            let delta = scratch.header.fixed.set_ack(ack).sum();
            store_header(skb, scratch, delta)
        }
        LocalDelivery::AckOnly(seq, ack) => {
            scratch.header.fixed.make_ack_only(seq, ack);
            cut_to_header(skb, scratch)
        }
    };
    Some(if done.is_some() { PASS } else { DROP })
}

/// Cuts the packet to its new TCP header.
#[inline(always)]
pub(crate) fn cut_to_header(skb: *mut __sk_buff, scratch: &mut Scratch) -> Option<()> {
    let len = header_len(scratch)?;
    let l3_len = scratch.l4 - L3 + len;
    // The pseudo header of the checksum: addresses, length and protocol (RFC 9293, 3.1). The zeros
    // behind IPv4 addresses add nothing.
    let mut pseudo = [len.to_be(), u32::from(TCP).to_be()];
    // SAFETY: all lengths are those of the values; offsets were found by parsing.
    unsafe {
        if bpf_skb_change_tail(skb, L3 + l3_len, 0) != 0 {
            return None;
        }
        let sum = bpf_csum_diff(null_mut(), 0, pseudo.as_mut_ptr().cast(), 8, 0);
        let addresses = addr_of_mut!(scratch.tuple).cast();
        let sum = bpf_csum_diff(null_mut(), 0, addresses, 32, sum as u32);
        let header = addr_of_mut!(scratch.header).cast();
        let sum = bpf_csum_diff(null_mut(), 0, header, header_len(scratch)?, sum as u32);
        scratch.header.fixed.set_check(!fold(sum as u32));
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let len = header_len(scratch)?;
        if bpf_skb_store_bytes(skb, scratch.l4, addr_of!(scratch.header).cast(), len, flags) != 0 {
            return None;
        }
        if scratch.tuple.version != 4 {
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
