//! The verdict: each packet that arrives on a source is redirected to its target, or passed up
//! to user space while user space moves the bytes of that flow.
//!
//! When which of both is `balance_ebpf::handover`'s business. Invariant: the kernel runs the verdict
//! of one socket under that socket's lock, so one flow is never judged twice at a time;
//! `redirected` and `backlog` need no atomics for that reason, `state` does because user space
//! changes it as well.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod common;

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{__sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_sock, sk_action, tcp_sock},
    helpers::{
        bpf_get_socket_cookie, bpf_loop, bpf_map_lookup_elem, bpf_sk_release, bpf_skb_adjust_room,
        bpf_skc_to_tcp_sock,
    },
    macros::{map, stream_verdict},
    maps::{Array, HashMap, RingBuf, SockMap},
    programs::SkBuffContext,
};
use aya_log_ebpf::debug;
use balance_ebpf::{
    Backlog, DEFAULT_SLOTS, EVENT_BYTES, Flow, Offsets, Position, fault,
    handover::{Course, ProgramWords, arrive},
};
use common::compare_exchange;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[map]
static TARGETS: SockMap = SockMap::with_max_entries(DEFAULT_SLOTS, 0);
#[map]
static SOURCES: SockMap = SockMap::with_max_entries(DEFAULT_SLOTS, 0);
#[map]
static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(DEFAULT_SLOTS, BPF_F_NO_PREALLOC);
#[map]
static FLOWS: Array<Flow> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

#[unsafe(no_mangle)]
static LIMIT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets {
    bytes_acked: 0,
    write_seq: 0,
    snd_una: 0,
    copied_seq: 0,
    wmem_queued: 0,
});

/// What becomes of a packet.
enum Verdict {
    /// Queue it on the target, to be sent.
    Redirect(u32),
    /// Leave it to user space, on the source's own queue, charged to its receive buffer.
    Pass,
    /// It carries no data (a bare FIN; the socket's own state tells that): a redirected empty
    /// packet would make the kernel break the target (net/core/skmsg.c, sk_psock_backlog).
    Drop,
}

#[stream_verdict]
fn balance_verdict(ctx: SkBuffContext) -> u32 {
    match verdict(&ctx) {
        // SAFETY: the helper takes any index; one that is empty makes it return SK_DROP.
        Verdict::Redirect(slot) => unsafe { TARGETS.redirect_skb(&ctx, slot, 0) as u32 },
        Verdict::Pass => sk_action::SK_PASS,
        Verdict::Drop => sk_action::SK_DROP,
    }
}

#[inline(always)]
fn verdict(ctx: &SkBuffContext) -> Verdict {
    if ctx.len() == 0 {
        return Verdict::Drop;
    }
    // SAFETY: the context is the skb that the kernel runs us on.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the element stays the map's while the program runs, and one aligned word is read of it.
    // From Linux 6.1 on it can be given to another cookie meanwhile, but only once the socket that it
    // was for is closed.
    let Some(&slot) = (unsafe { SLOTS.get(cookie) }) else {
        // Not ours any more: the connection is being closed.
        return Verdict::Pass;
    };
    let Some(flow) = FLOWS.get_ptr_mut(slot) else {
        return Verdict::Pass;
    };
    // SAFETY: `flow` points into the array map, which outlives the program; the field is ours
    // alone, and user space only reads the next one.
    let fault = unsafe {
        let fault = match trim(ctx, &mut *addr_of_mut!((*flow).position)) {
            Ok(()) => fault::NONE,
            Err(fault) => fault,
        };
        if fault != fault::NONE {
            write_volatile(addr_of_mut!((*flow).fault), fault);
        }
        read_volatile(addr_of!((*flow).fault))
    };
    if fault != fault::NONE {
        // Nothing that comes after may be delivered. If the buffer is full the end of the
        // connection still finds the fault.
        let _ = EVENTS.output::<u32>(slot, 0);
        debug!(ctx, "slot {}: fault {}", slot, fault);
        return Verdict::Drop;
    }
    let len = ctx.len();
    if len == 0 {
        // All of it had been seen before; only its FIN is new.
        return Verdict::Drop;
    }
    let other = FLOWS.get_ptr_mut(slot ^ 1).map(Words);
    let tell = || EVENTS.output::<u32>(slot, 0).is_ok();
    let is_clear = || other.as_ref().is_none_or(|other| is_clear(ctx, other));
    match arrive(&Words(flow), other.as_ref(), len, LIMIT.load(), tell, || target(slot), is_clear) {
        Course::Pass => Verdict::Pass,
        Course::Redirect => Verdict::Redirect(slot),
        Course::GiveUp => {
            // SAFETY: as above; only we write it.
            let sum = unsafe { read_volatile(addr_of!((*flow).redirected)) };
            debug!(ctx, "slot {}: over the limit after {} bytes", slot, sum);
            Verdict::Redirect(slot)
        }
    }
}

/// The words of a flow in the map.
struct Words(*mut Flow);

impl ProgramWords for Words {
    #[inline(always)]
    fn glance(&self) -> u64 {
        // SAFETY: points into the array map, which outlives the program; volatile because user
        // space writes it too.
        unsafe { read_volatile(addr_of!((*self.0).state)) }
    }

    #[inline(always)]
    fn exchange(&self, current: u64, new: u64) -> u64 {
        // SAFETY: as above; the state is the first word of a cache line.
        unsafe { compare_exchange(addr_of_mut!((*self.0).state), current, new) }
    }

    #[inline(always)]
    fn add_redirected(&self, len: u32) -> u64 {
        // SAFETY: as above; only we write it, and user space reads it at any time.
        unsafe {
            let redirected = addr_of_mut!((*self.0).redirected);
            let sum = read_volatile(redirected) + u64::from(len);
            write_volatile(redirected, sum);
            sum
        }
    }

    #[inline(always)]
    fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R {
        // SAFETY: as above. `arrive` calls this in KERNEL, which it has acquired: user space leaves it
        // alone until it is given the flow, and the socket's lock keeps this program from running on
        // the flow a second time.
        work(unsafe { &mut *addr_of_mut!((*self.0).backlog) })
    }
}

/// The most that the helper cuts off at once (net/core/filter.c, sk_skb_adjust_room).
const CUT: u32 = 0xfff;

/// Enough cuts for 4 MiB, more than a receive buffer holds: packets that arrive out of order
/// are merged there to any length before they get to the receive queue.
const CUTS: u32 = 1 << 10;

/// Cuts off what this flow has seen before.
#[inline(always)]
fn trim(ctx: &SkBuffContext, position: &mut Position) -> Result<(), u32> {
    // The control block of a packet on TCP's receive queue begins with its sequence numbers
    // (include/net/tcp.h, struct tcp_skb_cb), which is where `cb` points for this program type
    // (include/net/strparser.h, struct sk_skb_cb). `advance` checks them against the length.
    let (seq, end) = (ctx.cb()[0], ctx.cb()[1]);
    let len = ctx.len();
    if !position.is_known() {
        position.begin(read_up_to(ctx).ok_or(fault::SHAPE)?);
    }
    let seen = position.advance(seq, end, len)?;
    if seen == 0 {
        return Ok(());
    }
    let fresh = len - seen;
    let mut trim = Trim { skb: ctx.skb.skb, fresh: u64::from(fresh) };
    // SAFETY: `cut` has the signature that the helper calls, and `trim` outlives the call.
    unsafe { bpf_loop(CUTS, cut as *mut c_void, addr_of_mut!(trim).cast(), 0) };
    if ctx.len() == fresh { Ok(()) } else { Err(fault::TRIM) }
}

/// The sequence number up to which user space has read the source, which is about to get its
/// first packet judged: what it has read of that packet is still there.
#[inline(always)]
fn read_up_to(ctx: &SkBuffContext) -> Option<u32> {
    let tcp = source(ctx)?;
    let at = OFFSETS.load().copied_seq as usize;
    // SAFETY: the offset comes from the running kernel's own type information.
    Some(unsafe { read_volatile(tcp.cast::<u8>().add(at).cast::<u32>()) })
}

/// The packet's socket, which is locked and needs no release.
#[inline(always)]
fn source(ctx: &SkBuffContext) -> Option<*mut tcp_sock> {
    // SAFETY: the context is the skb that the kernel runs us on.
    unsafe {
        let sk = read_volatile(addr_of!((*ctx.skb.skb).__bindgen_anon_2.sk));
        if sk.is_null() {
            return None;
        }
        let tcp: *mut tcp_sock = bpf_skc_to_tcp_sock(sk.cast()).cast();
        if tcp.is_null() { None } else { Some(tcp) }
    }
}

/// Whether the source has written all that `other`, the flow towards it, has had redirected. Asked while
/// user space has that flow: what user space sends, it sends once this is so.
#[inline(always)]
fn is_clear(ctx: &SkBuffContext, other: &Words) -> bool {
    let Some(tcp) = source(ctx) else {
        return true;
    };
    // SAFETY: `source` found the socket. The words are aligned ones of a map value; `base` changes only
    // when the flow goes back to the kernel, and is then right for what follows.
    unsafe {
        let (written, _) = written(tcp);
        let base = read_volatile(addr_of!((*other.0).backlog.base));
        let redirected = read_volatile(addr_of!((*other.0).redirected));
        written.wrapping_sub(base) as i64 >= redirected as i64
    }
}

/// A packet, and how much is to be left of it: nothing that changes from turn to turn, or the
/// verifier would go through all of them.
#[repr(C)]
struct Trim {
    skb: *mut __sk_buff,
    fresh: u64,
}

/// One turn of `trim`, called by the helper: 0 to go on, 1 to stop.
unsafe extern "C" fn cut(_turn: u64, trim: *mut Trim) -> i64 {
    // SAFETY: the helper hands on what `trim` gave it.
    unsafe {
        let skb = (*trim).skb;
        let seen = (*skb).len - (*trim).fresh as u32;
        let cut = if seen < CUT { seen } else { CUT };
        let stop = seen == 0 || bpf_skb_adjust_room(skb, -(cut as i32), 0, 0) != 0;
        i64::from(stop)
    }
}

/// Bytes that a socket has written in all, and the memory of its send queue.
///
/// # Safety
/// `tcp` must be a socket that stays for the length of the call.
#[inline(always)]
unsafe fn written(tcp: *mut tcp_sock) -> (u64, u32) {
    let (tcp, at) = (tcp.cast::<u8>(), OFFSETS.load());
    // SAFETY: the offsets come from the running kernel's own type information.
    unsafe {
        let acked = read_volatile(tcp.add(at.bytes_acked as usize).cast::<u64>());
        let end = read_volatile(tcp.add(at.write_seq as usize).cast::<u32>());
        let start = read_volatile(tcp.add(at.snd_una as usize).cast::<u32>());
        let queued = read_volatile(tcp.add(at.wmem_queued as usize).cast::<u32>());
        // An acknowledgement between these reads makes the sum too small, not too large:
        // the first count is read first.
        (acked + u64::from(end.wrapping_sub(start)), queued)
    }
}

/// Bytes that the slot's target has written in all, and the memory of its send queue; `None` if
/// it is gone.
#[inline(always)]
fn target(slot: u32) -> Option<(u64, u32)> {
    // SAFETY: the map outlives the program; the socket is released once, on the one path below on which
    // there is one, after the last read of it, and the offsets come from the running kernel's own
    // type information.
    unsafe {
        let sk = bpf_map_lookup_elem(addr_of!(TARGETS).cast_mut().cast(), addr_of!(slot).cast());
        if sk.is_null() {
            return None;
        }
        let tcp: *mut tcp_sock = bpf_skc_to_tcp_sock(sk).cast();
        let read = if tcp.is_null() { None } else { Some(written(tcp)) };
        bpf_sk_release(sk.cast::<bpf_sock>().cast::<c_void>());
        read
    }
}
