//! Whether a packet is as its sender made it.
//!
//! Invariant: nothing is concluded from a packet whose checksum is wrong. Devices and GRO have
//! looked at most packets, and packets of this machine have no checksum yet.

use core::{
    ffi::c_void,
    ptr::{addr_of_mut, null_mut, write_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_CSUM_LEVEL_QUERY},
    helpers::{bpf_csum_diff, bpf_csum_level, bpf_loop, bpf_skb_load_bytes},
};
use balance_ebpf::splice::{fold, pseudo_sum};

use crate::{
    WORK,
    packet::{Work, opaque},
};

/// Bytes that are summed up at a time.
const CHUNK: u32 = 256;

/// The most bytes of an IP packet.
const MOST: u32 = 1 << 16;

/// Whether the checksum of a packet is right; `end` is where the packet ends.
#[inline(always)]
pub(crate) fn is_intact(skb: *mut __sk_buff, work: &mut Work, end: u32) -> bool {
    let segment = end - work.l4;
    let sum = pseudo_sum(&work.key.source, &work.key.target, segment);
    // The sum of the pseudo header alone stands there until the packet leaves the machine, and again
    // once GRO has put it together (include/linux/skbuff.h, CHECKSUM_PARTIAL).
    // Zero is written in two ways.
    let (check, pseudo) = (work.now.fixed.check(), fold(sum));
    if check == pseudo || check == 0 && pseudo == u16::MAX {
        return true;
    }
    // SAFETY: the context is the skb that the kernel runs us on.
    if unsafe { bpf_csum_level(skb, u64::from(BPF_CSUM_LEVEL_QUERY)) } >= 0 {
        return true;
    }
    sum_up(skb, work, end, sum)
}

/// What the helper is called with.
struct Rest {
    skb: *mut __sk_buff,
    at: u32,
    end: u32,
    sum: u32,
}

/// Whether a whole segment sums up to nothing.
#[inline(always)]
fn sum_up(skb: *mut __sk_buff, work: &Work, end: u32, sum: u32) -> bool {
    let mut rest = Rest { skb, at: work.l4, end, sum };
    // SAFETY: `add_chunk` has the signature that the helper calls, with a `Rest` as its context.
    unsafe { bpf_loop(MOST / CHUNK, add_chunk as *mut c_void, addr_of_mut!(rest).cast(), 0) };
    rest.at >= rest.end && fold(rest.sum) == u16::MAX
}

/// One turn of `sum_up`, called by the helper: 0 to go on, 1 to stop.
unsafe extern "C" fn add_chunk(_turn: u64, rest: *mut c_void) -> i64 {
    // SAFETY: `sum_up` passes a `Rest`, and waits.
    let rest = unsafe { &mut *rest.cast::<Rest>() };
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 1;
    };
    if rest.at >= rest.end {
        return 1;
    }
    let left = rest.end - rest.at;
    let len = if left < CHUNK { left } else { CHUNK };
    // Whole words are summed up: what is behind the last byte has to be zeros.
    let last = (opaque(len) >> 2) & (CHUNK / 4 - 1);
    // SAFETY: the element is this processor's own, and has so many words.
    let chunk = unsafe { addr_of_mut!((*work).chunk).cast::<u32>() };
    if len < CHUNK {
        // SAFETY: as above.
        unsafe { write_volatile(chunk.add(last as usize), 0) };
    }
    // Looked at right before each call: verifiers before Linux 6.8 forget the bounds of what is put aside.
    // Nor do they learn from a comparison with 0 that a length is not that.
    let less = opaque(len - 1);
    if less > CHUNK - 1 {
        return 1;
    }
    let bytes = less + 1;
    // SAFETY: the chunk has as many bytes as is said.
    if unsafe { bpf_skb_load_bytes(rest.skb.cast(), rest.at, chunk.cast(), bytes) } != 0 {
        return 1;
    }
    let words = opaque(len + 3) & !3;
    if words > CHUNK {
        return 1;
    }
    // SAFETY: as above.
    rest.sum = unsafe { bpf_csum_diff(null_mut(), 0, chunk, words, rest.sum) } as u32;
    rest.at += len;
    0
}
