//! Parses a packet into the scratch memory of its processor: the offsets and contents of its
//! headers.
//!
//! Invariant: every value in the scratch memory was read from the packet. A truncated TCP header
//! consists of its ports with zeros behind them, and `parse_header` rejects it.

use core::{
    arch::asm,
    mem::MaybeUninit,
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes};
use balance_ebpf::splice::{
    FIXED, Header, IcmpWords6, MAX_OPTIONS, OptionRewrite, Options, PacketTuple,
};

/// Bytes before the IP header: an Ethernet header, which loopback has as well. The program is
/// attached to no other devices.
pub(crate) const L3: u32 = 14;

/// The protocol number of TCP in an IP header.
pub(crate) const TCP: u8 = 6;

const MAX_HEADER: u32 = FIXED + MAX_OPTIONS as u32;

/// The packet that the processor works on: too large for the stack of a BPF program.
#[repr(C)]
pub(crate) struct Scratch {
    /// The tuple with which the packet arrived.
    pub(crate) tuple: PacketTuple,
    /// The TCP header as it is now, or will be stored. The checksum is the one with which the
    /// packet arrived.
    pub(crate) header: TcpHeader,
    /// The TCP header with which the packet arrived, if it is needed again.
    pub(crate) saved_header: TcpHeader,
    /// Offset of the TCP header.
    pub(crate) l4: u32,
    /// Bytes of the TCP header.
    pub(crate) header_len: u32,
    /// Bytes of payload.
    pub(crate) payload: u32,
    /// Not 0 for a fragment, or a packet with headers before the TCP header that are not read. The
    /// program drops such a packet of a splice.
    pub(crate) unforwardable: u32,
    /// How often the packet was reinjected ([`REINJECTED`](balance_ebpf::splice::REINJECTED)).
    pub(crate) reinjections: u32,
    /// The IP header up to the addresses, as it is now. For IPv6 the last word is not used.
    pub(crate) ip: [u32; 3],
    /// How the options change.
    pub(crate) option_rewrite: OptionRewrite,
    /// Offset of the current option.
    pub(crate) option_at: u32,
    /// Bytes of the packet that are summed up.
    pub(crate) chunk: [u32; 64],
    /// The ICMP report, if the packet is one.
    pub(crate) icmp: IcmpWords6,
}

/// A TCP header. The bytes behind the end of its options have no meaning.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TcpHeader {
    pub(crate) fixed: Header,
    pub(crate) options: Options,
}

impl Scratch {
    /// Saves the header.
    #[inline(always)]
    pub(crate) fn save_header(&mut self) {
        copy(&mut self.saved_header, &self.header);
    }

    /// Restores the saved header.
    #[inline(always)]
    pub(crate) fn restore_header(&mut self) {
        copy(&mut self.header, &self.saved_header);
    }
}

/// Copies word by word. The compiler's own copy goes byte by byte.
#[inline(always)]
fn copy(to: &mut TcpHeader, from: &TcpHeader) {
    let (to, from) = (addr_of_mut!(*to).cast::<u32>(), addr_of!(*from).cast::<u32>());
    let mut i = 0;
    while i < MAX_HEADER as usize / 4 {
        // SAFETY: both are aligned and have that many words.
        unsafe { write_volatile(to.add(i), read_volatile(from.add(i))) };
        i += 1;
    }
}

/// Reads the tuple and the fixed part of the TCP header. Returns the offset where the packet ends.
/// `None` if the packet is not TCP, or has a form that no splice has.
#[inline(always)]
pub(crate) fn read_tuple(skb: *mut __sk_buff, scratch: &mut Scratch) -> Option<u32> {
    // SAFETY: the context is the skb that the kernel runs the program on.
    let (protocol, len) = unsafe { ((*skb).protocol, (*skb).len) };
    scratch.unforwardable = 0;
    // An IPv6 header; or an IPv4 header and, usually, the fixed part of the TCP header.
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
        // Options of the IP header belong to the sender's network.
        scratch.unforwardable = fragment & 0x2000 | u32::from(size != 20);
        scratch.ip = [ip[0], ip[1], ip[2]];
        scratch.tuple.source = [ip[3], 0, 0, 0];
        scratch.tuple.target = [ip[4], 0, 0, 0];
        scratch.tuple.version = 4;
        l4 = L3 + size;
        total = u32::from(u16::from_be_bytes(length)) + L3;
        fixed = if size == 20 { [ip[5], ip[6], ip[7], ip[8], ip[9]] } else { load_fixed(skb, l4)? };
    } else if protocol == u32::from(0x86ddu16.to_be()) {
        ip = load_words::<10>(skb, L3)?;
        scratch.ip = [ip[0], ip[1], 0];
        scratch.tuple.source = [ip[2], ip[3], ip[4], ip[5]];
        scratch.tuple.target = [ip[6], ip[7], ip[8], ip[9]];
        scratch.tuple.version = 6;
        let [a, b, kind, _] = ip[1].to_ne_bytes();
        l4 = L3 + 40;
        total = l4 + u32::from(u16::from_be_bytes([a, b]));
        if kind != TCP {
            l4 = beyond_extensions(skb, kind, l4)?;
            scratch.unforwardable = 1;
        }
        fixed = load_fixed(skb, l4)?;
    } else {
        return None;
    }
    scratch.l4 = l4;
    scratch.header.fixed = Header::new(fixed);
    scratch.tuple.ports = fixed[0];
    // The length field of a BIG TCP packet is 0. A short packet may have padding.
    let end = if total <= l4 { len } else { total };
    if end > len { None } else { Some(end) }
}

/// Reads the rest of the TCP header. The packet ends at `end`. `None` if the header is not valid.
#[inline(always)]
pub(crate) fn parse_header(skb: *mut __sk_buff, scratch: &mut Scratch, end: u32) -> Option<()> {
    let l4 = scratch.l4;
    let header_len = scratch.header.fixed.length();
    let body = l4 + header_len;
    if header_len < FIXED || end < body {
        return None;
    }
    scratch.header_len = header_len;
    scratch.payload = end - body;
    // Read again, otherwise the compiler relies on bounds that the verifier does not know.
    // SAFETY: a field of a reference.
    let len = unsafe { read_volatile(addr_of!(scratch.header_len)) };
    if len <= FIXED {
        return Some(());
    }
    if len > MAX_HEADER {
        return None;
    }
    // The compiler would compare the difference with 0, and verifiers before Linux 6.8 learn
    // nothing from that. For them the length below could still be 0, which the helper does not
    // accept.
    let options = opaque(len) - FIXED;
    let into = scratch.header.options.as_mut_ptr();
    // SAFETY: that many bytes fit.
    match unsafe { bpf_skb_load_bytes(skb.cast(), l4 + FIXED, into.cast(), options) } {
        0 => Some(()),
        _ => None,
    }
}

/// The same number, but the compiler no longer knows its bounds.
#[inline(always)]
pub(crate) fn opaque(number: u32) -> u32 {
    let mut number = u64::from(number);
    // An instruction without effect: kernels reject line information that belongs to no
    // instruction.
    // SAFETY: the instruction changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
    number as u32
}

/// Offset of the TCP header behind extension headers (RFC 8200, 4). `None` if there is no TCP
/// header, or too many headers before it.
#[inline(always)]
fn beyond_extensions(skb: *mut __sk_buff, first: u8, mut at: u32) -> Option<u32> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let mut kind = first;
    let mut headers = 0;
    while headers < 4 {
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
        headers += 1;
    }
    None
}

/// Reads bytes of the packet at an offset.
#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, at: u32, into: &mut [u8; N]) -> Option<()> {
    // SAFETY: the array has `N` bytes.
    match unsafe { bpf_skb_load_bytes(skb.cast(), at, into.as_mut_ptr().cast(), N as u32) } {
        0 => Some(()),
        _ => None,
    }
}

/// Reads words of the packet at an offset.
#[inline(always)]
fn load_words<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u32; N]> {
    // Zeros written before would be written byte by byte.
    let mut words = MaybeUninit::<[u32; N]>::uninit();
    let len = N as u32 * 4;
    // SAFETY: the array has `len` bytes, and the helper fills all of them or fails.
    unsafe {
        match bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), len) {
            0 => Some(words.assume_init()),
            _ => None,
        }
    }
}

/// An IPv4 header without options and the words behind it. Zeros where the packet ends before.
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

/// The fixed part of a TCP header. If the packet ends before, the ports with zeros behind: such a
/// header has length 0, and `parse_header` rejects it.
#[inline(always)]
fn load_fixed(skb: *mut __sk_buff, l4: u32) -> Option<[u32; 5]> {
    match load_words::<5>(skb, l4) {
        Some(words) => Some(words),
        None => load_words::<1>(skb, l4).map(|[ports]| [ports, 0, 0, 0, 0]),
    }
}

/// Bytes of the TCP header, with bounds for the helper that is called next: verifiers before Linux
/// 6.8 lose the bounds of a value that is spilled to the stack.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "the compiler makes a longer program of a range")]
pub(crate) fn header_len(scratch: &Scratch) -> Option<u32> {
    // Read again, as in `parse_header`.
    // SAFETY: a field of a reference.
    let len = unsafe { read_volatile(addr_of!(scratch.header_len)) };
    if len < FIXED || len > MAX_HEADER { None } else { Some(len) }
}
