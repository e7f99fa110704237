//! TCP segments sent beside a connection's own, as a retransmission might be.
//!
//! IPv4 over loopback only. Reading the sequence numbers needs CAP_NET_ADMIN (TCP_REPAIR), sending
//! needs CAP_NET_RAW.
//!
//! Invariant: the state of the connection's own socket does not change.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::checksum::checksum;

/// Flag bits of the TCP header.
pub mod flag {
    /// End of the sender's direction.
    pub const FIN: u8 = 0x01;
    /// Start of a connection.
    pub const SYN: u8 = 0x02;
    /// Abort of the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// Sends `payload` to the peer of `stream` as a separate segment with these flags. The segment
/// begins `back` bytes before the next sequence number of `stream`.
///
/// # Errors
/// When a capability is missing, or the stream is not IPv4.
pub fn send_segment(stream: &TcpStream, back: u32, payload: &[u8], flags: u8) -> io::Result<()> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (stream.local_addr()?, stream.peer_addr()?)
    else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let (sent, received) = sequence_numbers(stream)?;
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sent.wrapping_sub(back).to_be_bytes());
    segment.extend(received.to_be_bytes());
    // Data offset of five words; flags; the largest window; checksum; no urgent pointer.
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = checksum_between(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    raw.bind(&SocketAddr::from((*from.ip(), 0)).into())?;
    raw.send_to(&segment, &SocketAddr::from((*to.ip(), 0)).into())?;
    Ok(())
}

/// The next sequence number to send and the next to receive.
pub(crate) fn sequence_numbers(stream: &TcpStream) -> io::Result<(u32, u32)> {
    // include/uapi/linux/tcp.h
    const RECEIVE_QUEUE: i32 = 1;
    const SEND_QUEUE: i32 = 2;
    const OFF_WITHOUT_PROBE: i32 = -1;
    set(stream, libc::TCP_REPAIR, 1)?;
    let numbers = (|| Ok((number(stream, SEND_QUEUE)?, number(stream, RECEIVE_QUEUE)?)))();
    set(stream, libc::TCP_REPAIR, OFF_WITHOUT_PROBE)?;
    numbers
}

fn number(stream: &TcpStream, queue: i32) -> io::Result<u32> {
    set(stream, libc::TCP_REPAIR_QUEUE, queue)?;
    let mut value = 0u32;
    let mut len = size_of_val(&value) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set(stream: &TcpStream, option: i32, value: i32) -> io::Result<()> {
    let (fd, len) = (stream.as_raw_fd(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes, the size of `value`.
    let result =
        unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The checksum of a segment with its pseudo-header (RFC 9293, 3.1).
fn checksum_between(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(u16::try_from(segment.len()).expect("a segment").to_be_bytes());
    bytes.extend(segment);
    checksum(&bytes)
}
