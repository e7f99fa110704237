//! TCP's repair mode (TCP_REPAIR): reading and setting the sequence state of a connection.
//!
//! A socket in repair mode sends nothing and leaves the mode with the same state. All functions
//! need CAP_NET_ADMIN.
//!
//! Invariant: a function that enters repair mode leaves it, except [`enter_repair`].

use std::{io, os::fd::AsFd};

use super::{clock::monotonic, raw, socket::set_int, tcp::send_mss};

// include/uapi/linux/tcp.h
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const REPAIR_ON: i32 = 1;
const REPAIR_OFF: i32 = 0;
const REPAIR_OFF_WITHOUT_PROBE: i32 = -1;
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
/// include/net/tcp.h
const TCPOPT_TIMESTAMP: u32 = 8;

/// The sequence state of a connection. The names are those of the kernel's `struct tcp_sock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceNumbers {
    /// The next byte expected from the peer.
    pub(crate) rcv_nxt: u32,
    /// The next byte to be written.
    pub(crate) snd_nxt: u32,
    /// The sequence number of the segment that last updated the peer's window.
    pub(crate) snd_wl1: u32,
    /// The largest window that the peer ever advertised, in bytes.
    pub(crate) max_window: u32,
    /// The window that this side last advertised, in bytes.
    pub(crate) rcv_wnd: u32,
    /// The right edge of that window.
    pub(crate) rcv_edge: u32,
}

/// Reads the sequence state of a connection. Call this with an empty send queue.
///
/// With a segment in the queue that the peer's window admits, repair mode marks the segment as sent
/// without sending it (net/ipv4/tcp_output.c, tcp_write_xmit). The kernel later retransmits it as
/// lost.
pub(crate) fn sequence_numbers(socket: &impl AsFd) -> io::Result<SequenceNumbers> {
    in_repair(socket, || {
        let snd_nxt = queue_number(socket, SEND_QUEUE)?;
        // Selecting the receive queue makes the send queue work normally again.
        let rcv_nxt = queue_number(socket, RECEIVE_QUEUE)?;
        let [snd_wl1, _, max_window, rcv_wnd, rcv_wup] = repair_window(socket)?;
        let rcv_edge = rcv_wup.wrapping_add(rcv_wnd);
        Ok(SequenceNumbers { rcv_nxt, snd_nxt, snd_wl1, max_window, rcv_wnd, rcv_edge })
    })
}

/// The sequence number of the next byte expected from the peer.
pub(crate) fn rcv_nxt(socket: &impl AsFd) -> io::Result<u32> {
    in_repair(socket, || queue_number(socket, RECEIVE_QUEUE))
}

/// The sequence number of the next byte expected from the peer, and the right edge of the window
/// that this side last advertised. Does not disturb the send queue, which repair mode skips only
/// while it is the selected queue (net/ipv4/tcp_output.c, `tcp_write_xmit`).
pub(crate) fn receive_window(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    in_repair(socket, || {
        let rcv_nxt = queue_number(socket, RECEIVE_QUEUE)?;
        let [.., rcv_wnd, rcv_wup] = repair_window(socket)?;
        Ok((rcv_nxt, rcv_wup.wrapping_add(rcv_wnd)))
    })
}

/// The sequence number of the segment that last updated the peer's window.
pub(crate) fn snd_wl1(socket: &impl AsFd) -> io::Result<u32> {
    in_repair(socket, || repair_window(socket).map(|[snd_wl1, ..]| snd_wl1))
}

/// The MSS that the peer advertised, in bytes, TCP options included.
pub(crate) fn peer_mss(socket: &impl AsFd) -> io::Result<u32> {
    // In repair mode the kernel returns the peer's value and not the MSS in use.
    in_repair(socket, || send_mss(socket))
}

fn in_repair<T>(socket: &impl AsFd, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    enter_repair(socket)?;
    let result = act();
    leave_repair(socket, REPAIR_OFF_WITHOUT_PROBE)?;
    result
}

fn leave_repair(socket: &impl AsFd, how: i32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, how)?;
    // Leaving repair mode clears SO_REUSEADDR (net/ipv4/tcp.c, TCP_REPAIR). Without the option
    // other processes could not listen on the address that the socket was accepted from.
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

fn queue_number(socket: &impl AsFd, queue: i32) -> io::Result<u32> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)?;
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { raw::option(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ) }
}

fn set_queue_number(socket: &impl AsFd, queue: i32, number: u32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)?;
    set_int(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ, number.cast_signed())
}

/// `struct tcp_repair_window` (include/uapi/linux/tcp.h): snd_wl1, snd_wnd, max_window, rcv_wnd and
/// rcv_wup.
fn repair_window(socket: &impl AsFd) -> io::Result<[u32; 5]> {
    // SAFETY: an array of `u32`: any bytes are a value.
    unsafe { raw::option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW) }
}

/// Puts a socket into repair mode for good: closing the socket sends nothing to the peer.
pub(crate) fn enter_repair(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, REPAIR_ON)
}

/// Makes a new socket one end of an existing connection without sending a segment.
///
/// `connect` binds and connects the socket to the addresses of the connection. `snd_nxt` is the
/// sequence number of the next byte that the socket sends, `rcv_nxt` that of the next byte from the
/// peer. With `clock` both sides use timestamps, and the socket's timestamps continue from that
/// value.
pub(crate) fn repair_connect(
    socket: &impl AsFd,
    snd_nxt: u32,
    rcv_nxt: u32,
    clock: Option<u32>,
    connect: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    in_repair(socket, || {
        set_queue_number(socket, SEND_QUEUE, snd_nxt)?;
        set_queue_number(socket, RECEIVE_QUEUE, rcv_nxt)?;
        connect()?;
        if let Some(clock) = clock {
            // A peer that uses timestamps may ignore segments without one (RFC 7323, 3.2).
            let option = [TCPOPT_TIMESTAMP, 0u32];
            raw::set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &option)?;
            // The lowest bit would select a clock of microseconds.
            set_int(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP, (clock & !1).cast_signed())?;
        }
        // Without a window the socket would probe the peer before it sends its FIN.
        let window = [rcv_nxt, FIN_WINDOW, FIN_WINDOW, FIN_WINDOW, rcv_nxt];
        raw::set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window)
    })
}

/// The window that [`repair_connect`] assumes at the peer, in bytes: enough for a FIN.
const FIN_WINDOW: u32 = 65_535;

/// Sends a window probe: a segment with a sequence number that the peer has already acknowledged.
/// The peer answers with an acknowledgement, and the state of this side does not change.
pub(crate) fn send_window_probe(socket: &impl AsFd) -> io::Result<()> {
    enter_repair(socket)?;
    leave_repair(socket, REPAIR_OFF)
}

/// The clock of a connection's timestamps, and CLOCK_MONOTONIC at the same moment in whole
/// milliseconds.
///
/// The lowest bit of the former is not reliable, because the kernel uses it as a flag
/// (net/ipv4/tcp.c, TCP_TIMESTAMP): the clock may be one higher.
pub(crate) fn timestamp_clock(socket: &impl AsFd) -> io::Result<(u32, u64)> {
    loop {
        let now = monotonic() / 1_000_000;
        // SAFETY: a `u32`: any bytes are a value.
        let clock = unsafe { raw::option(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP)? };
        if monotonic() / 1_000_000 == now {
            return Ok((clock, now));
        }
    }
}
