//! What the kernel reports of a TCP connection (TCP_INFO and other options of tcp(7)).
//!
//! Invariant: no function changes the connection, except [`acknowledge_now`].

use std::{io, os::fd::AsFd};

use super::{
    raw,
    socket::{send_queue, set_int},
};

/// The sending side of a connection at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendState {
    /// Bytes that the peer has acknowledged since the connection began.
    pub(crate) acked: u64,
    /// Bytes in the send queue that the peer has not acknowledged.
    pub(crate) unacked: u64,
    /// The connection is gone: the socket sends nothing more and reads no more acknowledgements.
    pub(crate) closed: bool,
}

impl SendState {
    /// Bytes written to the socket since the connection began.
    pub(crate) fn written(&self) -> u64 {
        self.acked + self.unacked
    }
}

/// Reads the sending side of a connection at one moment.
///
/// The two counters come from two calls. An acknowledgement between the calls would be missing in
/// both counters, so the function repeats the calls until the first counter stays the same.
pub(crate) fn send_state(socket: &impl AsFd) -> io::Result<SendState> {
    let mut before = tcp_info(socket)?;
    loop {
        let unacked = send_queue(socket)?;
        let after = tcp_info(socket)?;
        if after.tcpi_bytes_acked == before.tcpi_bytes_acked {
            return Ok(SendState {
                acked: after.tcpi_bytes_acked,
                unacked,
                closed: after.tcpi_state == TCP_CLOSE,
            });
        }
        before = after;
    }
}

// include/net/tcp_states.h
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;

/// The first fields of the kernel's `struct tcp_info` (include/uapi/linux/tcp.h), up to
/// `tcpi_snd_wnd`, which libc's definition lacks. The kernel fills as much as the caller has room
/// for.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    tcpi_state: u8,
    before_options: [u8; 4],
    tcpi_options: u8,
    /// The peer's window scale in the lower half, ours in the upper.
    tcpi_wscale: u8,
    flags: u8,
    before_pmtu: [u32; 13],
    tcpi_pmtu: u32,
    before_advmss: [u32; 5],
    tcpi_advmss: u32,
    before_pacing: [u32; 4],
    tcpi_pacing_rate: u64,
    tcpi_max_pacing_rate: u64,
    tcpi_bytes_acked: u64,
    tcpi_bytes_received: u64,
    before_window: [u32; 23],
    tcpi_snd_wnd: u32,
}

fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    // SAFETY: a struct of integers and arrays of integers: any bytes are a value.
    unsafe { raw::option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }
}

/// Bytes that have arrived in order since the connection began. A FIN counts as one byte.
pub(crate) fn bytes_received(socket: &impl AsFd) -> io::Result<u64> {
    Ok(tcp_info(socket)?.tcpi_bytes_received)
}

/// The peer's receive window in bytes, from its last acknowledgement on (Linux 5.4 and later).
pub(crate) fn send_window(socket: &impl AsFd) -> io::Result<u64> {
    Ok(tcp_info(socket)?.tcpi_snd_wnd.into())
}

/// Whether the connection of a socket is gone, for example by a reset.
pub(crate) fn is_closed(socket: &impl AsFd) -> io::Result<bool> {
    Ok(tcp_info(socket)?.tcpi_state == TCP_CLOSE)
}

/// What the two ends of a connection negotiated in the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    /// The connection is established: neither side has sent a FIN or a reset.
    pub(crate) established: bool,
    /// Timestamps and their unit, selective acknowledgements, ECN: bits of TCPI_OPT_*
    /// (include/uapi/linux/tcp.h).
    pub(crate) options: u8,
    /// The window scales of the peer and of this side.
    pub(crate) scales: (u8, u8),
    /// The MSS that this side advertised, in bytes, TCP options included.
    pub(crate) advertised_mss: u32,
    /// The MTU of the path to the peer, in bytes.
    pub(crate) path_mtu: u32,
}

impl Negotiated {
    /// Whether segments carry timestamps.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.options & OPT_TIMESTAMPS != 0
    }

    /// Whether the timestamps count microseconds.
    pub(crate) fn has_fine_timestamps(&self) -> bool {
        self.options & OPT_USEC_TS != 0
    }
}

const OPT_TIMESTAMPS: u8 = 1;
const OPT_SACK: u8 = 2;
const OPT_ECN: u8 = 8;
const OPT_USEC_TS: u8 = 64;

/// Reads what a connection negotiated.
pub(crate) fn negotiated(socket: &impl AsFd) -> io::Result<Negotiated> {
    let info = tcp_info(socket)?;
    Ok(Negotiated {
        established: info.tcpi_state == TCP_ESTABLISHED,
        options: info.tcpi_options & (OPT_TIMESTAMPS | OPT_SACK | OPT_ECN | OPT_USEC_TS),
        scales: (info.tcpi_wscale & 15, info.tcpi_wscale >> 4),
        advertised_mss: info.tcpi_advmss,
        path_mtu: info.tcpi_pmtu,
    })
}

/// The MSS that a connection sends with, in bytes, without the options of every segment.
pub(crate) fn send_mss(socket: &impl AsFd) -> io::Result<u32> {
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { raw::option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG) }
}

/// Sends the acknowledgement that a connection has delayed, if any.
pub(crate) fn acknowledge_now(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn the_send_state_counts_written_and_acknowledged_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut b, _) = listener.accept().unwrap();
        let start = send_state(&a).unwrap();
        a.write_all(&[7; 5000]).unwrap();
        assert_eq!(send_state(&a).unwrap().written() - start.written(), 5000);
        b.read_exact(&mut [0; 5000]).unwrap();
        while send_state(&a).unwrap().unacked > 0 {
            std::thread::yield_now();
        }
        assert_eq!(send_state(&a).unwrap().acked - start.acked, 5000);
        assert!(!start.closed);
    }
}
