//! A packet in work: where its headers are, and what they say.
//!
//! Invariant: what is noted of a packet was read from it. A TCP header that is cut off has its ports and
//! zeros behind them; `parse` refuses it.

use core::{
    arch::asm,
    mem::MaybeUninit,
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes};
use balance_ebpf::splice::{Change, FIXED, Header, Key, MOST_OPTIONS, Message6, Options};

/// Bytes before the IP header: an Ethernet header, which loopback has as well. Other devices are
/// not attached to.
pub(crate) const L3: u32 = 14;

/// The protocol's number in an IP header.
pub(crate) const TCP: u8 = 6;

const MOST_HEADER: u32 = FIXED + MOST_OPTIONS as u32;

/// A packet in work: too much for the stack of a BPF program.
#[repr(C)]
pub(crate) struct Work {
    /// Its addresses as it arrived.
    pub(crate) key: Key,
    /// Its header as it is now, or is to be; but for the checksum, which is the one that it arrived with.
    pub(crate) now: Whole,
    /// Its header as it arrived, where that is needed again.
    pub(crate) arrived: Whole,
    /// Where the TCP header begins.
    pub(crate) l4: u32,
    /// Bytes of the TCP header.
    pub(crate) header_len: u32,
    /// Bytes of payload.
    pub(crate) payload: u32,
    /// Not 0 if it is not a whole packet, or has headers before that of TCP that are not read: of a
    /// splice such a packet goes nowhere.
    pub(crate) odd: u32,
    /// How often it has come round, if it has ([`TURNED`](balance_ebpf::splice::TURNED)).
    pub(crate) turns: u32,
    /// How the IP header begins, up to its addresses, as it is now; of IPv6 the last word is nothing.
    pub(crate) ip: [u32; 3],
    /// What becomes of its options.
    pub(crate) change: Change,
    /// The option that is looked at.
    pub(crate) at: u32,
    /// A part of it that is summed up.
    pub(crate) chunk: [u32; 64],
    /// What a router says of a packet, if this is that.
    pub(crate) message: Message6,
}

/// A TCP header. What is behind the end of its options may be anything.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Whole {
    pub(crate) fixed: Header,
    pub(crate) options: Options,
}

impl Work {
    /// Keeps the header as it arrived.
    #[inline(always)]
    pub(crate) fn keep(&mut self) {
        copy(&mut self.arrived, &self.now);
    }

    /// Makes the header what was kept.
    #[inline(always)]
    pub(crate) fn take_back(&mut self) {
        copy(&mut self.now, &self.arrived);
    }
}

/// Word by word: the compiler's own copy goes byte by byte.
#[inline(always)]
fn copy(to: &mut Whole, from: &Whole) {
    let (to, from) = (addr_of_mut!(*to).cast::<u32>(), addr_of!(*from).cast::<u32>());
    let mut i = 0;
    while i < MOST_HEADER as usize / 4 {
        // SAFETY: both are aligned and have so many words.
        unsafe { write_volatile(to.add(i), read_volatile(from.add(i))) };
        i += 1;
    }
}

/// Reads the addresses, the fixed part of the TCP header and where the packet ends; `None` if it is
/// not TCP or something else that no splice has.
#[inline(always)]
pub(crate) fn find(skb: *mut __sk_buff, work: &mut Work) -> Option<u32> {
    // SAFETY: the context is the skb that the kernel runs us on.
    let (protocol, len) = unsafe { ((*skb).protocol, (*skb).len) };
    work.odd = 0;
    // A header of IPv6; or one of IPv4 and, mostly, the fixed part of the TCP header.
    let ip;
    let (mut l4, total, fixed);
    if protocol == u32::from(0x0800u16.to_be()) {
        ip = load_ipv4(skb)?;
        let [version, _, length @ ..] = ip[0].to_ne_bytes();
        let size = u32::from(version & 15) * 4;
        let fragment = u32::from_be(ip[1]);
        if ip[2].to_ne_bytes()[1] != TCP || fragment & 0x1fff != 0 || size < 20 {
            return None;
        }
        // Options of the IP header are of the sender's own network.
        work.odd = fragment & 0x2000 | u32::from(size != 20);
        work.ip = [ip[0], ip[1], ip[2]];
        work.key.source = [ip[3], 0, 0, 0];
        work.key.target = [ip[4], 0, 0, 0];
        work.key.version = 4;
        l4 = L3 + size;
        total = u32::from(u16::from_be_bytes(length)) + L3;
        fixed = if size == 20 { [ip[5], ip[6], ip[7], ip[8], ip[9]] } else { load_fixed(skb, l4)? };
    } else if protocol == u32::from(0x86ddu16.to_be()) {
        ip = load_words::<10>(skb, L3)?;
        work.ip = [ip[0], ip[1], 0];
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
        fixed = load_fixed(skb, l4)?;
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
pub(crate) fn parse(skb: *mut __sk_buff, work: &mut Work, end: u32) -> Option<()> {
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
pub(crate) fn opaque(number: u32) -> u32 {
    let mut number = u64::from(number);
    // An instruction that does nothing: kernels do not take the lines of one that is not there.
    // SAFETY: as said.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
    number as u32
}

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
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, at: u32, into: &mut [u8; N]) -> Option<()> {
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

/// An IPv4 header without options and what is behind it; of a packet that ends before, zeros.
#[inline(always)]
fn load_ipv4(skb: *mut __sk_buff) -> Option<[u32; 10]> {
    match load_words::<10>(skb, L3) {
        Some(words) => Some(words),
        None => {
            let [a, b, c, d, e, ports] = load_words::<6>(skb, L3)?;
            Some([a, b, c, d, e, ports, 0, 0, 0, 0])
        }
    }
}

/// The fixed part of a TCP header. Of a packet that ends before, the ports with zeros behind: such a
/// header has no length, and is not parsed.
#[inline(always)]
fn load_fixed(skb: *mut __sk_buff, l4: u32) -> Option<[u32; 5]> {
    match load_words::<5>(skb, l4) {
        Some(words) => Some(words),
        None => load_words::<1>(skb, l4).map(|[ports]| [ports, 0, 0, 0, 0]),
    }
}

/// Bytes of the TCP header, for a helper that is called next: verifiers before Linux 6.8 do not
/// remember the bounds of a number that was put aside meanwhile.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "of a range the compiler makes a longer program")]
pub(crate) fn header_len(work: &Work) -> Option<u32> {
    // Read again, as in `parse`.
    // SAFETY: an own field.
    let len = unsafe { read_volatile(addr_of!(work.header_len)) };
    if len < FIXED || len > MOST_HEADER { None } else { Some(len) }
}
