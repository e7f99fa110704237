//! The verdict program of the sockmap datapath: redirects each packet that arrives on a source to
//! its target, or passes the packet to user space while user space moves the bytes of that flow.
//!
//! `balance_ebpf::sockmap::handover` decides between the two.
//!
//! Invariant: the kernel runs the verdict of one socket under that socket's lock, so no two
//! processors decide on one flow at the same time. For that reason `redirected` and `backlog` need
//! no atomics. `state` does, because user space changes it as well.

#![no_std]
#![no_main]

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, read_volatile},
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
    DEFAULT_SLOTS, EVENT_BYTES,
    sockmap::{
        Backlog, Fault, Flow, Offsets, Position,
        handover::{PacketAction, ProgramWords, on_packet},
    },
};

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

/// What happens to a packet.
enum Verdict {
    /// The target sends the packet.
    Redirect(u32),
    /// User space reads the packet from the source's own queue, charged to its receive buffer.
    Pass,
    /// The packet has no payload (a bare FIN, which the socket's own state reports). A redirected
    /// empty packet would make the kernel break the target (net/core/skmsg.c, sk_psock_backlog).
    Drop,
}

#[stream_verdict]
fn balance_verdict(ctx: SkBuffContext) -> u32 {
    match verdict(&ctx) {
        // SAFETY: the helper takes any index, and returns SK_DROP for an empty one.
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
    // SAFETY: the context is the skb that the kernel runs the program on.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the element stays in the map's memory while the program runs, and one aligned word is
    // read of it. From Linux 6.1 on the element can be reused for another cookie meanwhile, but
    // only once the socket that it was for is closed.
    let Some(&slot) = (unsafe { SLOTS.get(cookie) }) else {
        // User space has removed the socket: the connection is being closed.
        return Verdict::Pass;
    };
    let Some(flow) = FLOWS.get(slot) else {
        return Verdict::Pass;
    };
    // SAFETY: only the program uses the position, and the socket's lock keeps it from running
    // twice.
    if let Err(fault) = trim(ctx, unsafe { &mut *flow.position.get() }) {
        flow.fault.store_relaxed(fault);
    }
    let fault = flow.fault.load_relaxed();
    if fault != Fault::None {
        // Nothing that comes after may be delivered. If the buffer is full, user space finds the
        // fault at the end of the connection.
        let _ = EVENTS.output::<u32>(slot, 0);
        debug!(ctx, "slot {}: fault {}", slot, fault as u32);
        return Verdict::Drop;
    }
    let len = ctx.len();
    if len == 0 {
        // All bytes were seen before, and only the FIN is new.
        return Verdict::Drop;
    }
    let other = FLOWS.get(slot ^ 1).map(Words);
    let notify = || EVENTS.output::<u32>(slot, 0).is_ok();
    let is_clear = || other.as_ref().is_none_or(|other| is_clear(ctx, other));
    let (limit, target) = (LIMIT.load(), || target(slot));
    match on_packet(&Words(flow), other.as_ref(), len, limit, notify, target, is_clear) {
        PacketAction::Pass => Verdict::Pass,
        PacketAction::Redirect => Verdict::Redirect(slot),
        PacketAction::RedirectAndHandBack => {
            let sum = flow.redirected.load_relaxed();
            debug!(ctx, "slot {}: over the limit after {} bytes", slot, sum);
            Verdict::Redirect(slot)
        }
    }
}

/// The words of a flow in the map.
struct Words(&'static Flow);

impl ProgramWords for Words {
    #[inline(always)]
    fn load_relaxed(&self) -> u64 {
        self.0.state.load_relaxed()
    }

    #[inline(always)]
    fn exchange(&self, current: u64, new: u64) -> u64 {
        self.0.state.compare_exchange(current, new)
    }

    #[inline(always)]
    fn add_redirected(&self, len: u32) -> u64 {
        // Only the program writes the word. User space reads it at any time.
        let sum = self.0.redirected.load_relaxed() + u64::from(len);
        self.0.redirected.store_relaxed(sum);
        sum
    }

    #[inline(always)]
    fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R {
        // SAFETY: `on_packet` calls this in KERNEL, which it has acquired. User space does not
        // touch the backlog until it is given the flow, and the socket's lock keeps the program
        // from running on the flow a second time.
        work(unsafe { &mut *self.0.backlog.get() })
    }
}

/// The largest number of bytes that the helper cuts off at once (net/core/filter.c,
/// sk_skb_adjust_room).
const MAX_CUT: u32 = 0xfff;

/// Cuts for 4 MiB, more than a receive buffer holds. Packets that arrive out of order are merged
/// there to any length before they get to the receive queue.
const MAX_CUTS: u32 = 1 << 10;

/// Cuts off the bytes that this flow has seen before.
#[inline(always)]
fn trim(ctx: &SkBuffContext, position: &mut Position) -> Result<(), Fault> {
    // The control block of a packet on TCP's receive queue begins with its sequence numbers
    // (include/net/tcp.h, struct tcp_skb_cb), and `cb` points there for this program type
    // (include/net/strparser.h, struct sk_skb_cb). `advance` checks them against the length.
    let (seq, end) = (ctx.cb()[0], ctx.cb()[1]);
    let len = ctx.len();
    if !position.is_known() {
        position.begin(copied_seq(ctx).ok_or(Fault::Shape)?);
    }
    let seen = position.advance(seq, end, len)?;
    if seen == 0 {
        return Ok(());
    }
    let fresh = len - seen;
    let mut trim = Trim { skb: ctx.skb.skb, fresh: u64::from(fresh) };
    // SAFETY: `cut` has the signature that the helper calls, and `trim` outlives the call.
    unsafe { bpf_loop(MAX_CUTS, cut as *mut c_void, addr_of_mut!(trim).cast(), 0) };
    if ctx.len() == fresh { Ok(()) } else { Err(Fault::Trim) }
}

/// The sequence number up to which user space has read the source, before the source's first packet
/// gets its verdict. That packet still contains the bytes that user space has read.
#[inline(always)]
fn copied_seq(ctx: &SkBuffContext) -> Option<u32> {
    let tcp = source(ctx)?;
    let at = OFFSETS.load().copied_seq as usize;
    // SAFETY: the offset comes from the running kernel's own type information.
    Some(unsafe { read_volatile(tcp.cast::<u8>().add(at).cast::<u32>()) })
}

/// The packet's socket, which is locked and needs no release.
#[inline(always)]
fn source(ctx: &SkBuffContext) -> Option<*mut tcp_sock> {
    // SAFETY: the context is the skb that the kernel runs the program on.
    unsafe {
        let sk = read_volatile(addr_of!((*ctx.skb.skb).__bindgen_anon_2.sk));
        if sk.is_null() {
            return None;
        }
        let tcp: *mut tcp_sock = bpf_skc_to_tcp_sock(sk.cast()).cast();
        if tcp.is_null() { None } else { Some(tcp) }
    }
}

/// Whether the source has written everything that was redirected to it by `other`, the flow towards
/// it. Called while user space has that flow, which sends its own bytes only afterwards.
#[inline(always)]
fn is_clear(ctx: &SkBuffContext, other: &Words) -> bool {
    let Some(tcp) = source(ctx) else {
        return true;
    };
    // SAFETY: `source` found the socket. `base` is one aligned word of a map value. It changes only
    // when the flow goes back to the kernel, and is then right for what follows.
    unsafe {
        let (written, _) = written(tcp);
        let base = read_volatile(addr_of!((*other.0.backlog.get()).base));
        let redirected = other.0.redirected.load_relaxed();
        written.wrapping_sub(base) as i64 >= redirected as i64
    }
}

/// A packet, and its length after the cuts. Holds nothing that changes between iterations,
/// otherwise the verifier would follow each iteration.
#[repr(C)]
struct Trim {
    skb: *mut __sk_buff,
    fresh: u64,
}

/// One iteration of `trim`, called by the helper: 0 to continue, 1 to stop.
unsafe extern "C" fn cut(_iteration: u64, trim: *mut Trim) -> i64 {
    // SAFETY: the helper passes on the pointer that `trim` gave it.
    unsafe {
        let skb = (*trim).skb;
        let seen = (*skb).len - (*trim).fresh as u32;
        let cut = if seen < MAX_CUT { seen } else { MAX_CUT };
        let stop = seen == 0 || bpf_skb_adjust_room(skb, -(cut as i32), 0, 0) != 0;
        i64::from(stop)
    }
}

/// Bytes that a socket has written in all, and the memory of its send queue.
///
/// # Safety
/// `tcp` must be a socket that stays valid for the length of the call.
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
        // `bytes_acked` is read first.
        (acked + u64::from(end.wrapping_sub(start)), queued)
    }
}

/// Bytes that the slot's target has written in all, and the memory of its send queue. `None` if the
/// target is gone.
#[inline(always)]
fn target(slot: u32) -> Option<(u64, u32)> {
    // SAFETY: the map outlives the program. The socket is released once, on the one path below on
    // which there is one, after its last read. The offsets come from the running kernel's own type
    // information.
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
