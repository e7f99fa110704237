//! Sockets of any protocol: bytes without waiting, queues, memory and options.
//!
//! Invariant: no function waits.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::sys::socket::{self, MsgFlags};

use super::raw::{self, IntRequest};

/// Receives the bytes that are in the receive queue; `WouldBlock` if it is empty.
///
/// A read that begins at an urgent byte also fails with `WouldBlock` when the kernel has work for
/// this process, such as a completion of the ring (net/ipv4/tcp.c, tcp_recvmsg_locked:
/// `signal_pending`). The kernel does that work before the call returns, so the function tries
/// again. The number of tries is limited because a socket of a sockmap may hold bytes that cannot
/// be read yet.
pub(crate) fn recv(socket: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    const TRIES: usize = 8;
    for _ in 1..TRIES {
        match try_recv(socket, into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && is_before_urgent(socket)? => {}
            other => return other,
        }
    }
    try_recv(socket, into)
}

fn try_recv(socket: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    Ok(socket::recv(socket.as_fd().as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)?)
}

/// Whether the next byte to read is an urgent byte that has arrived.
fn is_before_urgent(socket: &impl AsFd) -> io::Result<bool> {
    Ok(raw::ioctl_int(socket, IntRequest::AtUrgentMark)? != 0
        && poll_now(socket, libc::POLLIN)? != 0)
}

/// Sends as many bytes as the send queue has room for; `WouldBlock` if it is full.
pub(crate) fn send(socket: &impl AsFd, from: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(socket::send(socket.as_fd().as_raw_fd(), from, flags)?)
}

/// Which of `events` hold now (poll(2)). The result includes POLLERR and POLLHUP, whatever `events`
/// is.
pub(crate) fn poll_now(socket: &impl AsFd, events: i16) -> io::Result<i16> {
    let mut entry = [libc::pollfd { fd: socket.as_fd().as_raw_fd(), events, revents: 0 }];
    raw::poll_now(&mut entry)?;
    Ok(entry[0].revents)
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_int(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    raw::set_option(socket, level, name, &value)
}

/// Dissolves the connection of a socket. TCP sends a reset to the peer, unless the socket is in
/// repair mode ([`enter_repair`](super::enter_repair)).
pub(crate) fn disconnect(socket: &impl AsFd) -> io::Result<()> {
    raw::connect_to_unspecified(socket)
}

/// Bytes in the receive queue.
pub(crate) fn unread(socket: &impl AsFd) -> io::Result<u32> {
    raw::ioctl_int(socket, IntRequest::Unread)
}

/// Bytes in the send queue: written and not yet acknowledged.
pub(crate) fn send_queue(socket: &impl AsFd) -> io::Result<u64> {
    raw::ioctl_int(socket, IntRequest::SendQueue).map(Into::into)
}

/// Memory of the send queue in bytes, bookkeeping included.
pub(crate) fn send_memory(socket: &impl AsFd) -> io::Result<u32> {
    memory(socket).map(|[_, sent]| sent)
}

/// Memory of all bytes that have arrived, in order or not, in bytes.
pub(crate) fn receive_memory(socket: &impl AsFd) -> io::Result<u32> {
    memory(socket).map(|[received, _]| received)
}

fn memory(socket: &impl AsFd) -> io::Result<[u32; 2]> {
    // include/uapi/linux/sock_diag.h: SK_MEMINFO_VARS values, among them SK_MEMINFO_RMEM_ALLOC (0)
    // and SK_MEMINFO_WMEM_QUEUED (5). SAFETY: an array of `u32`: any bytes are a value.
    let values: [u32; 9] = unsafe { raw::option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)? };
    Ok([values[0], values[5]])
}

/// The MTU of the path of a connected socket, in bytes.
pub(crate) fn path_mtu(socket: &impl AsFd, is_ipv4: bool) -> io::Result<u32> {
    let (level, name) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { raw::option(socket, level, name) }
}

/// Hop limit and traffic class of the packets that a connected socket sends.
pub(crate) fn hop_limit_and_traffic_class(
    socket: &impl AsFd,
    is_ipv4: bool,
) -> io::Result<(u8, u8)> {
    let (level, hops, class) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, libc::IPV6_TCLASS)
    };
    // SAFETY: a `u32`: any bytes are a value.
    let read = |name| unsafe { raw::option::<u32>(socket, level, name) };
    // Both options are bytes (ip(7), ipv6(7)).
    Ok((read(hops)? as u8, read(class)? as u8))
}
