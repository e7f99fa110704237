//! Verifies the checksum of a packet.
//!
//! Invariant: a packet with a wrong checksum changes no state. Devices and GRO have verified most
//! packets, and packets of this host have no checksum yet.

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
    SCRATCH,
    packet::{Scratch, opaque},
};

/// Bytes that are summed up at a time.
const CHUNK: u32 = 256;

/// The largest IP packet, in bytes.
const MAX_PACKET: u32 = 1 << 16;

/// Whether the checksum of a packet is right. `end` is the offset where the packet ends.
#[inline(always)]
pub(crate) fn has_right_checksum(skb: *mut __sk_buff, scratch: &mut Scratch, end: u32) -> bool {
    let segment = end - scratch.l4;
    let sum = pseudo_sum(&scratch.tuple.source, &scratch.tuple.target, segment);
    // The field has the sum of the pseudo header alone until the packet leaves the host, and again
    // once GRO has merged packets (include/linux/skbuff.h, CHECKSUM_PARTIAL). Zero has two
    // representations.
    let (check, pseudo) = (scratch.header.fixed.check(), fold(sum));
    if check == pseudo || check == 0 && pseudo == u16::MAX {
        return true;
    }
    // SAFETY: the context is the skb that the kernel runs the program on.
    if unsafe { bpf_csum_level(skb, u64::from(BPF_CSUM_LEVEL_QUERY)) } >= 0 {
        return true;
    }
    sums_up(skb, scratch, end, sum)
}

/// The state of `sums_up` between two chunks.
struct Rest {
    skb: *mut __sk_buff,
    at: u32,
    end: u32,
    sum: u32,
}

/// Whether the whole segment, with the sum of its pseudo header, sums up to zero.
#[inline(always)]
fn sums_up(skb: *mut __sk_buff, scratch: &Scratch, end: u32, sum: u32) -> bool {
    let mut rest = Rest { skb, at: scratch.l4, end, sum };
    // SAFETY: `add_chunk` has the signature that the helper calls, with a `Rest` as its context.
    unsafe { bpf_loop(MAX_PACKET / CHUNK, add_chunk as *mut c_void, addr_of_mut!(rest).cast(), 0) };
    rest.at >= rest.end && fold(rest.sum) == u16::MAX
}

/// One iteration of `sums_up`, called by the helper: 0 to continue, 1 to stop.
unsafe extern "C" fn add_chunk(_iteration: u64, rest: *mut c_void) -> i64 {
    // SAFETY: `sums_up` passes a `Rest`, and waits.
    let rest = unsafe { &mut *rest.cast::<Rest>() };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    if rest.at >= rest.end {
        return 1;
    }
    let left = rest.end - rest.at;
    let len = if left < CHUNK { left } else { CHUNK };
    // The helper sums up whole words, so the bytes behind the last one must be zeros.
    let last = (opaque(len) >> 2) & (CHUNK / 4 - 1);
    // SAFETY: the element is this processor's own, and the chunk has that many words.
    let chunk = unsafe { addr_of_mut!((*scratch).chunk).cast::<u32>() };
    if len < CHUNK {
        // SAFETY: as above.
        unsafe { write_volatile(chunk.add(last as usize), 0) };
    }
    // The bounds are checked right before each call: verifiers before Linux 6.8 lose the bounds of
    // a value that is spilled to the stack. They also learn nothing from a comparison of a length
    // with 0.
    let less = opaque(len - 1);
    if less > CHUNK - 1 {
        return 1;
    }
    let bytes = less + 1;
    // SAFETY: the chunk has at least that many bytes.
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
