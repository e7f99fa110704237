//! The splice program: a packet of one connection goes on as a packet of another.
//!
//! Runs where packets arrive (tc ingress). It parses, asks `balance_ebpf::splice` what becomes of
//! the packet, rewrites it and sends it on. Invariant: a packet that belongs to no splice, or that
//! cannot be read, passes unchanged; of a splice nothing reaches a local socket but what the
//! judgement says.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod common;

use core::{
    arch::asm,
    ffi::c_void,
    mem::MaybeUninit,
    ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR,
        BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
    },
    helpers::{
        bpf_clone_redirect, bpf_csum_diff, bpf_ktime_get_ns, bpf_l3_csum_replace,
        bpf_l4_csum_replace, bpf_loop, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use balance_ebpf::{
    DEFAULT_SLOTS, EVENT_BYTES,
    splice::{
        Change, Common, Difference, FIXED, Forward, Header, Key, LOOPBACK, Local, MOST_OPTIONS,
        Options, REWRITTEN, Segment, Side, Splice, Stamps, Way, back, ending, flag, fold, is_after,
        judge, later, mend, note, phase, replaces, rewrite_usual_options, step_options,
    },
};
use common::compare_exchange;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// From the addresses of an arriving packet to twice the slot, plus the side.
#[map]
static PLACES: HashMap<Key, u32> = HashMap::with_max_entries(DEFAULT_SLOTS, BPF_F_NO_PREALLOC);
#[map]
static SPLICES: Array<Splice> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);
#[map]
static ENDINGS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
#[map]
static COMMON: Array<Common> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Bytes before the IP header: an Ethernet header, which loopback has as well. Other devices are
/// not attached to.
const L3: u32 = 14;

/// A packet in work: too much for the stack of a BPF program.
#[repr(C)]
struct Work {
    /// Its addresses as it arrived.
    key: Key,
    /// Its header as it is now, or is to be.
    now: Whole,
    /// Its header as it arrived, where that is needed again.
    arrived: Whole,
    /// Where the TCP header begins.
    l4: u32,
    /// Bytes of the TCP header.
    header_len: u32,
    /// Bytes of payload.
    payload: u32,
    /// Not 0 if it is not a whole packet, or has headers before that of TCP that are not read: of a
    /// splice such a packet goes nowhere.
    odd: u32,
    /// Of IPv4, the word with the checksum of its header, as it is now.
    checked: u32,
    /// What becomes of its options.
    change: Change,
    /// The option that is looked at.
    at: u32,
}

#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// A TCP header. What is behind the end of its options may be anything.
#[repr(C)]
#[derive(Clone, Copy)]
struct Whole {
    fixed: Header,
    options: Options,
}

/// Word by word: the compiler's own copy goes byte by byte.
#[inline(always)]
fn copy_header(to: &mut Whole, from: &Whole) {
    let (to, from) = (addr_of_mut!(*to).cast::<u32>(), addr_of!(*from).cast::<u32>());
    let mut i = 0;
    while i < MOST_HEADER as usize / 4 {
        // SAFETY: both are aligned and have so many words.
        unsafe { write_volatile(to.add(i), read_volatile(from.add(i))) };
        i += 1;
    }
}

const MOST_HEADER: u32 = FIXED + MOST_OPTIONS as u32;

/// What checksums change by.
#[derive(Clone, Copy)]
struct Sums {
    /// By the TCP header.
    header: u32,
    /// By the addresses: 0 if they stay.
    addresses: u32,
}

/// The next program is asked: another balance has its own.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;

#[classifier]
fn balance_splice(ctx: TcContext) -> i32 {
    act(ctx.skb.skb).unwrap_or(PASS)
}

#[inline(always)]
fn act(skb: *mut __sk_buff) -> Option<i32> {
    // SAFETY: the context is the skb that the kernel runs us on.
    let (mark, tagged) = unsafe { ((*skb).mark, (*skb).vlan_present) };
    if mark & 0xffff_0000 == REWRITTEN {
        // SAFETY: as above; the mark may be written.
        unsafe { (*skb).mark = 0 };
        return Some(leave(mark & 0xffff));
    }
    if tagged != 0 {
        // The device of the VLAN has it next, without the tag.
        return None;
    }
    // SAFETY: a word of a map value; volatile because user space writes it.
    if unsafe { read_volatile(addr_of!((*COMMON.get_ptr(0)?).entries)) } == 0 {
        return None;
    }
    // SAFETY: the element is this processor's own, and nothing of this program runs twice at a
    // time on one processor: it is called where packets arrive only.
    let work = unsafe { &mut *WORK.get_ptr_mut(0)? };
    let end = find(skb, work)?;
    // SAFETY: the element stays the map's while the program runs, and one aligned word is read of it.
    // From Linux 6.1 on it can be given to another key meanwhile, of a connection that is as new.
    let place = unsafe { PLACES.get(&work.key) }?;
    parse(skb, work, end)?;
    let (slot, i) = (*place >> 1, (*place & 1) as usize);
    let splice = SPLICES.get_ptr_mut(slot)?;
    // SAFETY: `splice` points into the array map, which outlives the program; volatile because
    // user space writes it.
    let mut phase = unsafe { read_volatile(addr_of!((*splice).phase)) };
    // SAFETY: as above, and `i` is 0 or 1.
    let (this, other) = unsafe {
        let ways = addr_of_mut!((*splice).ways).cast::<Way>();
        (ways.add(i), ways.add(1 - i))
    };
    // SAFETY: as above.
    let (home, arrived_on) = unsafe { (read_volatile(addr_of!((*other).out)), (*skb).ifindex) };
    if (home == LOOPBACK) != (arrived_on == LOOPBACK) {
        // Not from where its sender is.
        return None;
    }
    let segment = work.now.fixed.segment(work.payload);
    let mut before = None;
    if phase == phase::LOCAL {
        // SAFETY: as above.
        before = unsafe { remember(this, &segment) };
        // Again: user space asks what is remembered after it has changed the phase, and a packet of
        // which it is not told must not go to the local socket.
        // SAFETY: as above.
        phase = unsafe { read_volatile(addr_of!((*splice).phase)) };
        if phase == phase::LOCAL {
            // A packet that is not remembered is as good as lost, and comes again.
            return if before.is_some() { None } else { Some(DROP) };
        }
    }
    if work.odd != 0 {
        // SAFETY: as above.
        unsafe { increment(addr_of_mut!((*this).dropped)) };
        return Some(DROP);
    }
    if replaces(phase, &segment) {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*splice).phase), phase::LOCAL) };
        return None;
    }
    // SAFETY: as above.
    let ended = unsafe { read_volatile(addr_of!((*splice).ending)) };
    if segment.flags & flag::SYN != 0 && is_over(ended) {
        // A new connection before user space has let go of this one: it is asked for again.
        return Some(DROP);
    }
    // SAFETY: as above.
    let are_settled = unsafe { is_settled(this) && is_settled(other) };
    let (side, other_side, judgement);
    if are_settled {
        // SAFETY: as above.
        (side, other_side) = unsafe { (settled_side(this), settled_side(other)) };
        judgement = judge(phase, &side, &other_side, &segment);
    } else {
        // SAFETY: as above; what changes meanwhile changes in single words.
        let mut all = unsafe { read_volatile(addr_of!((*this).side)) };
        if let Some(before) = before {
            // This packet does not go to the local socket.
            all.next = before;
        }
        side = all;
        // SAFETY: as above.
        other_side = unsafe { read_volatile(addr_of!((*other).side)) };
        judgement = judge(phase, &side, &other_side, &segment);
    }
    if judgement.settles {
        // SAFETY: as above; set once and never taken back.
        unsafe { write_volatile(addr_of_mut!((*this).side.settled), 1) };
        tell(slot);
    }
    count(skb, splice, this, other, i, slot, &segment, judgement.forward.as_ref());
    let Some(forward) = judgement.forward else {
        return stay(skb, work, &judgement.local);
    };
    let is_whole = matches!(judgement.local, Local::Nothing);
    if !is_whole {
        copy_header(&mut work.arrived, &work.now);
    }
    // SAFETY: as above.
    let (out, again, looks, sums) = unsafe {
        let header = change(work, &forward, this, &side, &other_side);
        let addresses = read_volatile(addr_of!((*this).addresses));
        let (out, again) =
            (read_volatile(addr_of!((*this).out)), read_volatile(addr_of!((*this).again)));
        (out, again, addr_of!((*this).looks), Sums { header, addresses })
    };
    if rewrite(skb, work, looks, sums).is_none() {
        // SAFETY: as above.
        unsafe { increment(addr_of_mut!((*this).dropped)) };
        return Some(DROP);
    }
    if is_whole {
        return Some(go_on(skb, out, again));
    }
    send_copy(skb, out);
    // What is left here is for the local socket, as it was.
    let (now, arrived) = (addr_of_mut!(work.now), addr_of!(work.arrived));
    // SAFETY: both are the element's, and no other reference to them is in use.
    unsafe { copy_header(&mut *now, &*arrived) };
    let sums = Sums { header: back(sums.header), addresses: back(sums.addresses) };
    if rewrite(skb, work, addr_of!(work.key), sums).is_none() {
        return Some(DROP);
    }
    stay(skb, work, &judgement.local)
}

/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn is_settled(way: *const Way) -> bool {
    // SAFETY: as the caller promises.
    unsafe { read_volatile(addr_of!((*way).side.settled)) != 0 }
}

/// What counts of a side once both are settled; the rest is compared with nothing any more.
///
/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn settled_side(way: *const Way) -> Side {
    // SAFETY: as the caller promises; what changes meanwhile changes in single words.
    unsafe {
        let side = addr_of!((*way).side);
        Side {
            shift: read_volatile(addr_of!((*side).shift)),
            settled: 1,
            acked: read_volatile(addr_of!((*side).acked)),
            scale_in: read_volatile(addr_of!((*side).scale_in)),
            scale_out: read_volatile(addr_of!((*side).scale_out)),
            stamped: read_volatile(addr_of!((*side).stamped)),
            stamp_shift: read_volatile(addr_of!((*side).stamp_shift)),
            cut: 0,
            written: 0,
            next: 0,
            ahead: 0,
            leeway: 0,
            unused: 0,
        }
    }
}

/// Remembers that a packet goes to the local socket; how far they had gone before it. A full barrier.
/// `None` if other processors have come in between, again and again.
///
/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn remember(way: *mut Way, segment: &Segment) -> Option<u32> {
    let mut turn = 0;
    while turn < 4 {
        // SAFETY: as the caller promises.
        unsafe {
            let next = addr_of_mut!((*way).side.next);
            let before = read_volatile(next);
            if compare_exchange_half(next, before, note(before, segment)) == before {
                return Some(before);
            }
        }
        turn += 1;
    }
    None
}

/// [`compare_exchange`] for half a word.
///
/// # Safety
/// `half` must be an aligned half of a word of a map value.
#[inline(always)]
unsafe fn compare_exchange_half(half: *mut u32, current: u32, new: u32) -> u32 {
    let mut seen = current;
    // SAFETY: the half is one, as the caller promises, and no register but those named is touched.
    unsafe {
        asm!(
            "w0 = cmpxchg32_32({half} + 0, w0, {new})",
            half = in(reg) half,
            new = in(wreg) new,
            inout("w0") seen,
        );
    }
    seen
}

/// Whether both directions have ended.
#[inline(always)]
fn is_over(ended: u64) -> bool {
    const BOTH: u64 = ending::ACKNOWLEDGED | ending::ACKNOWLEDGED << 1;
    ended & BOTH == BOTH
}

/// Sends a rewritten packet on.
#[inline(always)]
fn go_on(skb: *mut __sk_buff, out: u32, again: u32) -> i32 {
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
fn send_copy(skb: *mut __sk_buff, out: u32) {
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
fn leave(out: u32) -> i32 {
    // SAFETY: the helper takes any interface; without a next hop it asks the routes.
    unsafe { bpf_redirect_neigh(out, null_mut(), 0, 0) as i32 }
}

/// Two processors may do it at once and count one.
///
/// # Safety
/// `count` must point into a map value.
#[inline(always)]
unsafe fn increment(count: *mut u32) {
    // SAFETY: as the caller promises.
    unsafe { write_volatile(count, read_volatile(count) + 1) };
}

/// Reads the addresses, the fixed part of the TCP header and where the packet ends; `None` if it is
/// not TCP or something else that no splice has.
#[inline(always)]
fn find(skb: *mut __sk_buff, work: &mut Work) -> Option<u32> {
    // SAFETY: the context is the skb that the kernel runs us on.
    let (protocol, len) = unsafe { ((*skb).protocol, (*skb).len) };
    work.odd = 0;
    // A header of IPv6; or one of IPv4 and, mostly, the fixed part of the TCP header.
    let ip;
    let (mut l4, total, fixed);
    if protocol == u32::from(0x0800u16.to_be()) {
        ip = load_words::<10>(skb, L3)?;
        let [version, _, length @ ..] = ip[0].to_ne_bytes();
        let size = u32::from(version & 15) * 4;
        let fragment = u32::from_be(ip[1]);
        if ip[2].to_ne_bytes()[1] != TCP || fragment & 0x1fff != 0 || size < 20 {
            return None;
        }
        work.odd = fragment & 0x2000;
        work.checked = ip[2];
        work.key.source = [ip[3], 0, 0, 0];
        work.key.target = [ip[4], 0, 0, 0];
        work.key.version = 4;
        l4 = L3 + size;
        total = u32::from(u16::from_be_bytes(length)) + L3;
        fixed = if size == 20 {
            [ip[5], ip[6], ip[7], ip[8], ip[9]]
        } else {
            load_words::<5>(skb, l4)?
        };
    } else if protocol == u32::from(0x86ddu16.to_be()) {
        ip = load_words::<10>(skb, L3)?;
        work.key.source = [ip[2], ip[3], ip[4], ip[5]];
        work.key.target = [ip[6], ip[7], ip[8], ip[9]];
        work.key.version = 6;
        let [a, b, kind, _] = ip[1].to_ne_bytes();
        l4 = L3 + 40;
        total = l4 + u32::from(u16::from_be_bytes([a, b]));
        if kind != TCP {
            l4 = beyond_extensions(skb, kind, l4)?;
            work.odd = 1;
        }
        fixed = load_words::<5>(skb, l4)?;
    } else {
        return None;
    }
    work.l4 = l4;
    work.now.fixed = Header::new(fixed);
    work.key.ports = fixed[0];
    // A packet too long for the field (BIG TCP) has 0 there; a short one may have padding.
    let end = if total <= l4 { len } else { total };
    if end > len { None } else { Some(end) }
}

/// Reads the rest of the header; the packet ends at `end`. `None` if it cannot be.
#[inline(always)]
fn parse(skb: *mut __sk_buff, work: &mut Work, end: u32) -> Option<()> {
    let l4 = work.l4;
    let header_len = work.now.fixed.length();
    let body = l4 + header_len;
    if header_len < FIXED || end < body {
        return None;
    }
    work.header_len = header_len;
    work.payload = end - body;
    // Read again, or the compiler knows what the verifier does not.
    // SAFETY: an own field.
    let len = unsafe { read_volatile(addr_of!(work.header_len)) };
    if len <= FIXED {
        return Some(());
    }
    if len > MOST_HEADER {
        return None;
    }
    // The compiler would compare the difference with 0, and verifiers before Linux 6.8 learn nothing
    // from that: to them the length below could still be 0, which the helper does not take.
    let options = opaque(len) - FIXED;
    let into = work.now.options.as_mut_ptr();
    // SAFETY: so many bytes fit.
    match unsafe { bpf_skb_load_bytes(skb.cast(), l4 + FIXED, into.cast(), options) } {
        0 => Some(()),
        _ => None,
    }
}

/// The same number, of which the compiler knows nothing any more.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    let mut number = u64::from(number);
    // An instruction that does nothing: kernels do not take the lines of one that is not there.
    // SAFETY: as said.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
    number as u32
}

/// The protocol's number in an IP header.
const TCP: u8 = 6;

/// Where the TCP header begins behind extension headers (RFC 8200, 4); `None` if there is none, or
/// too many are before it.
#[inline(always)]
fn beyond_extensions(skb: *mut __sk_buff, first: u8, mut at: u32) -> Option<u32> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let mut kind = first;
    let mut turn = 0;
    while turn < 4 {
        let mut header = [0u8; 4];
        load(skb, at, &mut header)?;
        at += match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => u32::from(header[1]) * 8 + 8,
            // Only the first fragment has the ports.
            FRAGMENT if header[2] == 0 && header[3] & 0xf8 == 0 => 8,
            _ => return None,
        };
        kind = header[0];
        if kind == TCP {
            return Some(at);
        }
        turn += 1;
    }
    None
}

#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, at: u32, into: &mut [u8; N]) -> Option<()> {
    // SAFETY: the array has as many bytes as we say.
    match unsafe { bpf_skb_load_bytes(skb.cast(), at, into.as_mut_ptr().cast(), N as u32) } {
        0 => Some(()),
        _ => None,
    }
}

/// The same in words.
#[inline(always)]
fn load_words<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u32; N]> {
    // Zeros before that would be written byte by byte.
    let mut words = MaybeUninit::<[u32; N]>::uninit();
    let len = N as u32 * 4;
    // SAFETY: the array has as many bytes as we say, and the helper fills all of them or fails.
    unsafe {
        match bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), len) {
            0 => Some(words.assume_init()),
            _ => None,
        }
    }
}

/// Counts a packet that goes on, and notes what it tells about the end of the connection.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "it is a part of `act`, and has what that has at hand"
)]
fn count(
    skb: *mut __sk_buff,
    splice: *mut Splice,
    this: *mut Way,
    other: *mut Way,
    i: usize,
    slot: u32,
    segment: &Segment,
    forward: Option<&Forward>,
) {
    // SAFETY: all point into the array map, which outlives the program. Two processors may count
    // at once: what must be right is changed atomically.
    unsafe {
        let mut endings = 0;
        let progress = addr_of_mut!((*this).progress);
        let seen = read_volatile(progress);
        if segment.flags & flag::RST != 0 {
            if (*this).is_believed(segment.seq, seen) {
                // Who is told of a reset may answer what was on its way with another; who began it
                // counts.
                let before = read_volatile(addr_of!((*splice).ending));
                if before & (ending::BROKEN << (1 - i)) == 0 {
                    endings |= ending::BROKEN << i;
                }
            } else if (*this).is_plausible(segment.seq) {
                endings |= ending::DOUBTED << i;
            }
        }
        if let Some(forward) = forward {
            let packets = addr_of_mut!((*this).packets);
            write_volatile(packets, read_volatile(packets) + 1);
            write_volatile(addr_of_mut!((*this).last), bpf_ktime_get_ns());
            let carries = segment.flags & (flag::SYN | flag::RST) == 0;
            let counts = carries && segment.takes() > 0 && (*this).is_plausible(segment.end());
            let said_here = segment.ack.wrapping_sub((*other).side.shift);
            let mut acked = forward.ack;
            if counts {
                advance(this, segment.end());
            }
            if carries {
                let room = u32::from(forward.window) << ((*this).side.scale_out & 15);
                let edge = addr_of_mut!((*other).edge);
                write_volatile(edge, later(read_volatile(edge), forward.ack.wrapping_add(room)));
                write_volatile(addr_of_mut!((*other).side.acked), forward.ack);
                let said = addr_of_mut!((*this).said);
                let sent = later(
                    (*other)
                        .next(read_volatile(addr_of!((*other).progress)))
                        .wrapping_add((*other).side.shift),
                    (*this).side.written,
                );
                if !is_after(segment.ack, sent) {
                    write_volatile(said, later(read_volatile(said), segment.ack));
                    // Also if less is passed on: the other peer may be gone, and ask no more.
                    acked = said_here;
                }
                if forward.ack != said_here {
                    increment(addr_of_mut!((*this).clamped));
                }
            }
            if counts && segment.flags & flag::FIN != 0 {
                write_volatile(addr_of_mut!((*this).fin), segment.end());
                endings |= ending::FIN << i;
            }
            let seen = read_volatile(addr_of!((*splice).ending));
            let fin = read_volatile(addr_of!((*other).fin));
            if seen & (ending::FIN << (1 - i)) != 0 && !is_after(fin, acked) {
                endings |= ending::ACKNOWLEDGED << (1 - i);
            }
        }
        let ending = addr_of_mut!((*splice).ending);
        let before = read_volatile(ending);
        if before | endings != before {
            or(ending, endings);
            debug!(&TcContext::new(skb), "splice {}: end seen, {:x}", slot, before | endings);
            if endings & !(ending::FIN << i) != 0 {
                tell(slot);
            }
        }
    }
}

/// Counts up to a number, if that is beyond what has been counted.
///
/// # Safety
/// `way` must point into a map value.
#[inline(always)]
unsafe fn advance(way: *mut Way, end: u32) {
    let mut turn = 0;
    // Another processor may come in between; more than a few do not.
    while turn < 4 {
        // SAFETY: as the caller promises.
        unsafe {
            let progress = addr_of_mut!((*way).progress);
            let seen = read_volatile(progress);
            let fresh = end.wrapping_sub((*way).next(seen));
            if !is_after(fresh, 0)
                || compare_exchange(progress, seen, seen + u64::from(fresh)) == seen
            {
                return;
            }
        }
        turn += 1;
    }
}

/// Tells user space to look at the slot.
#[inline(always)]
fn tell(slot: u32) {
    if ENDINGS.output::<u32>(slot, 0).is_err()
        && let Some(common) = COMMON.get_ptr_mut(0)
    {
        // SAFETY: a word of a map value.
        unsafe { write_volatile(addr_of_mut!((*common).missed), 1) };
    }
}

/// Makes the header what the other peer is to see; what the checksum changes by.
///
/// # Safety
/// `this` must point into a map value.
#[inline(always)]
unsafe fn change(
    work: &mut Work,
    forward: &Forward,
    this: *mut Way,
    side: &Side,
    other: &Side,
) -> u32 {
    // SAFETY: as the caller promises.
    let ports = unsafe { read_volatile(addr_of!((*this).looks.ports)) };
    let difference = work.now.fixed.pass_on(ports, forward);
    if work.header_len == FIXED {
        return difference.sum();
    }
    let mut change = Change {
        stamps: match side.stamped {
            0 => Stamps::None,
            1 => Stamps::Unknown,
            _ => Stamps::Known,
        },
        stamp: side.stamp_shift,
        clock: 0,
        echo: if other.stamped == 2 { Some(other.stamp_shift) } else { None },
        sack: if forward.without_sack { None } else { Some(other.shift) },
        blocks: 0,
    };
    if side.stamped == 1 {
        // SAFETY: as the caller promises.
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
            let options = rewrite_options(work);
            change = work.change;
            options
        }
    };
    // SAFETY: as the caller promises. Two processors may see the first timestamp at once, and would
    // come to about the same; and they may spoil a count.
    unsafe {
        if side.stamped == 1 && change.stamps == Stamps::Known {
            write_volatile(addr_of_mut!((*this).side.stamp_shift), change.stamp);
            write_volatile(addr_of_mut!((*this).side.stamped), 2);
        }
        if change.blocks > 0 {
            let sacks = addr_of_mut!((*this).sacks);
            write_volatile(sacks, read_volatile(sacks) + change.blocks);
        }
    }
    difference.and(0, options).sum()
}

/// Changes options of any kind; what the checksum changes by.
#[inline(always)]
fn rewrite_options(work: &mut Work) -> u32 {
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

/// One turn of `change`, called by the helper: 0 to go on, 1 to stop.
unsafe extern "C" fn option(_turn: u64, _: *mut c_void) -> i64 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the element is this processor's own; `change` does not use it meanwhile.
    let work = unsafe { &mut *work };
    let (len, at) = (work.header_len.wrapping_sub(20) as usize, work.at as usize);
    match step_options(&mut work.now.options, len, at, &mut work.change) {
        Some(next) => {
            work.at = next as u32;
            0
        }
        None => 1,
    }
}

/// Gives the packet the header that it is to have, and addresses; mends the checksums.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, work: &mut Work, looks: *const Key, sums: Sums) -> Option<()> {
    let check = work.l4 + 16;
    let len = header_len(work)?;
    // SAFETY: all lengths are those of the values; offsets were found by parsing.
    unsafe {
        if bpf_skb_store_bytes(skb, work.l4, addr_of!(work.now).cast(), len, 0) != 0
            || bpf_l4_csum_replace(skb, check, 0, sums.header.into(), 0) != 0
        {
            return None;
        }
        if sums.addresses == 0 {
            return Some(());
        }
        let (pseudo, sum) = (u64::from(BPF_F_PSEUDO_HDR), sums.addresses.into());
        if bpf_l4_csum_replace(skb, check, 0, sum, pseudo) != 0 {
            return None;
        }
        let failed = if work.key.version == 4 {
            let [life, protocol, a, b] = work.checked.to_ne_bytes();
            let [a, b] = mend(u16::from_ne_bytes([a, b]), sums.addresses).to_ne_bytes();
            work.checked = u32::from_ne_bytes([life, protocol, a, b]);
            let words = [work.checked, (*looks).source[0], (*looks).target[0]];
            bpf_skb_store_bytes(skb, L3 + 8, addr_of!(words).cast(), 12, 0) != 0
        } else {
            bpf_skb_store_bytes(skb, L3 + 8, addr_of!((*looks).source).cast(), 32, 0) != 0
        };
        if failed { None } else { Some(()) }
    }
}

/// Bytes of the TCP header, for a helper that is called next: verifiers before Linux 6.8 do not
/// remember the bounds of a number that was put aside meanwhile.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "of a range the compiler makes a longer program")]
fn header_len(work: &Work) -> Option<u32> {
    // Read again, as in `parse`.
    // SAFETY: an own field.
    let len = unsafe { read_volatile(addr_of!(work.header_len)) };
    if len < FIXED || len > MOST_HEADER { None } else { Some(len) }
}

/// Gives the packet, which is as it arrived, to the local socket as far as it is for it.
#[inline(always)]
fn stay(skb: *mut __sk_buff, work: &mut Work, local: &Local) -> Option<i32> {
    let done = match *local {
        Local::Nothing => None,
        Local::Whole(ack) => {
            let header = work.now.fixed.acknowledge(ack).sum();
            rewrite(skb, work, addr_of!(work.key), Sums { header, addresses: 0 })
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
fn cut(skb: *mut __sk_buff, work: &mut Work) -> Option<()> {
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

/// The BPF instruction of that name.
#[inline(always)]
fn or(word: *mut u64, bits: u64) {
    // SAFETY: `word` is an aligned word of a map value.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) |= {bits}",
            word = in(reg) word,
            bits = in(reg) bits,
        );
    }
}
