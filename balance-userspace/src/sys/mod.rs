//! System calls that no crate of ours offers, each behind a safe function.
//!
//! Invariant: the only module besides `datapath::mapped` that calls libc; every function
//! takes a borrowed descriptor, so that it is open for the length of the call.

pub mod daemon;
pub(crate) mod memory;
pub(crate) mod privileges;
pub mod signals;

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

/// Turns the classic -1 into the error of the call.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a length.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Receives what is there, without waiting: `WouldBlock` if nothing is.
///
/// A read that begins at an urgent byte says so as well when the kernel has work for this process, such
/// as a completion of the ring (net/ipv4/tcp.c, tcp_recvmsg_locked: `signal_pending`). That work is done
/// when the call returns, so it is tried again; not for ever, because a socket of a sockmap may
/// hold what cannot be read yet.
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
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
    check_len(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

/// Whether an urgent byte is there, and the next to be read.
fn is_before_urgent(socket: &impl AsFd) -> io::Result<bool> {
    /// The next byte is an urgent one (include/uapi/asm-generic/sockios.h).
    const SIOCATMARK: libc::c_ulong = 0x8905;
    Ok(ask(socket, SIOCATMARK)? != 0 && poll_now(socket, libc::POLLIN)? != 0)
}

/// Sends what there is room for, without waiting: `WouldBlock` if there is none.
pub(crate) fn send(socket: &impl AsFd, from: &[u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and length are those of a live slice.
    check_len(unsafe { libc::send(fd, from.as_ptr().cast(), from.len(), flags) })
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_int(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option(socket, level, name, &value)
}

/// Sets a socket option. `T` is plain integers without padding, like all that the kernel takes.
fn set_option<T: Copy>(socket: &impl AsFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), mem::size_of_val(value) as libc::socklen_t);
    // SAFETY: the kernel reads as many bytes as we say, those of a live value.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), len) })?;
    Ok(())
}

/// Which of `events` hold at this moment (poll(2)); errors are always among them.
pub(crate) fn poll_now(socket: &impl AsFd, events: i16) -> io::Result<i16> {
    let mut entry = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: one entry, as we say; a timeout of zero does not wait.
    check(unsafe { libc::poll(&raw mut entry, 1, 0) })?;
    Ok(entry.revents)
}

/// Descriptors of the process that are open, of those below a limit. Not asked of /proc, where a process
/// that has become another user's may not look.
pub(crate) fn open_descriptors(limit: usize) -> usize {
    // None is given out above while there is one below.
    const MOST: usize = 1 << 14;
    let entry = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut entries: Vec<_> = (0..limit.min(MOST) as i32).map(entry).collect();
    // SAFETY: as many entries as we say; a timeout of zero does not wait.
    let found = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, 0) };
    // Refused where the limit has become lower since.
    let is_open = |entry: &&libc::pollfd| found >= 0 && entry.revents & libc::POLLNVAL == 0;
    entries.iter().filter(is_open).count()
}

/// Where a connection's sending side stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendState {
    /// Bytes that the peer has acknowledged since the connection began.
    pub(crate) acked: u64,
    /// Bytes in the send queue that it has not.
    pub(crate) unacked: u64,
    /// The connection is gone: nothing more will be sent or acknowledged.
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
/// The two counters come from two calls; an acknowledgement between them would be missed by
/// both, so the first is read again until it stands still.
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

/// include/net/tcp_states.h
const TCP_CLOSE: u8 = 7;

/// The head of the kernel's `struct tcp_info` (include/uapi/linux/tcp.h), up to the field we
/// use; libc's definition ends before it. The kernel fills as much as it is given room for.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    tcpi_state: u8,
    before_options: [u8; 4],
    tcpi_options: u8,
    /// Of the peer in the lower half, ours in the upper.
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
    // SAFETY: a struct of integers and arrays of them: any bytes are a value.
    unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }
}

/// Reads a socket option.
///
/// # Safety
/// All bytes, zeros included, must be a value of the type.
unsafe fn option<T: Copy>(socket: &impl AsFd, level: i32, name: i32) -> io::Result<T> {
    // SAFETY: zeros are a value, as the caller promises.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to a value of that size, which stays one whatever
    // they are, also if it writes fewer.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}

/// Bytes that have arrived in order since the connection began, with the end of the stream as one.
pub(crate) fn received_bytes(socket: &impl AsFd) -> io::Result<u64> {
    Ok(tcp_info(socket)?.tcpi_bytes_received)
}

/// What the two ends of a connection agreed on when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    /// Neither side has ended.
    pub(crate) established: bool,
    /// Timestamps and their unit, selective acknowledgements, congestion notification: bits of
    /// TCPI_OPT_* (include/uapi/linux/tcp.h).
    pub(crate) options: u8,
    /// By how much the peer scales its window, and we ours.
    pub(crate) scales: (u8, u8),
    /// The largest segment that we told the peer to send, in bytes, TCP's options included.
    pub(crate) offered_mss: u32,
    /// The largest packet that the path to the peer takes, in bytes.
    pub(crate) path_mtu: u32,
}

impl Agreed {
    /// Whether packets carry timestamps.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.options & OPT_TIMESTAMPS != 0
    }

    /// Whether those count microseconds.
    pub(crate) fn has_fine_timestamps(&self) -> bool {
        self.options & OPT_USEC_TS != 0
    }
}

const OPT_TIMESTAMPS: u8 = 1;
const OPT_SACK: u8 = 2;
const OPT_ECN: u8 = 8;
const OPT_USEC_TS: u8 = 64;

/// include/net/tcp_states.h
const TCP_ESTABLISHED: u8 = 1;

/// Asks what a connection agreed on.
pub(crate) fn agreed(socket: &impl AsFd) -> io::Result<Agreed> {
    let info = tcp_info(socket)?;
    Ok(Agreed {
        established: info.tcpi_state == TCP_ESTABLISHED,
        options: info.tcpi_options & (OPT_TIMESTAMPS | OPT_SACK | OPT_ECN | OPT_USEC_TS),
        scales: (info.tcpi_wscale & 15, info.tcpi_wscale >> 4),
        offered_mss: info.tcpi_advmss,
        path_mtu: info.tcpi_pmtu,
    })
}

/// The largest segment that a connection sends, in bytes, without the options that each has.
pub(crate) fn largest_segment(socket: &impl AsFd) -> io::Result<u32> {
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG) }
}

/// The largest segment that the peer told us to send, in bytes, TCP's options included. Needs
/// CAP_NET_ADMIN.
pub(crate) fn taken_segment(socket: &impl AsFd) -> io::Result<u32> {
    // In this mode the kernel says what the peer did, and not what it makes of it at the moment.
    in_repair(socket, || largest_segment(socket))
}

/// The largest packet that the path of a connected socket takes, in bytes.
pub(crate) fn path_mtu(socket: &impl AsFd, is_ipv4: bool) -> io::Result<u32> {
    let (level, name) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { option(socket, level, name) }
}

/// Hop limit and traffic class of the packets of a connected socket.
pub(crate) fn hops_and_class(socket: &impl AsFd, is_ipv4: bool) -> io::Result<(u8, u8)> {
    let (level, hops, class) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, libc::IPV6_TCLASS)
    };
    // SAFETY: a `u32`: any bytes are a value.
    let ask = |name| unsafe { option::<u32>(socket, level, name) };
    // Neither is more than a byte (ip(7), ipv6(7)).
    Ok((ask(hops)? as u8, ask(class)? as u8))
}

/// Where a connection stands, in sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The next byte that the peer is to send.
    pub(crate) received: u32,
    /// The next byte that we are to write.
    pub(crate) written: u32,
    /// The packet that last told how much room the peer has.
    pub(crate) heard: u32,
    /// The most room that the peer ever had, in bytes.
    pub(crate) most_room: u32,
    /// The room that we have told the peer to have, in bytes.
    pub(crate) own_room: u32,
    /// The number where that room ends.
    pub(crate) edge: u32,
}

// include/uapi/linux/tcp.h
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const REPAIR_OFF: i32 = 0;
const REPAIR_OFF_WITHOUT_PROBE: i32 = -1;
const RECEIVE_QUEUE: i32 = 1;
/// include/net/tcp.h
const TCPOPT_TIMESTAMP: u32 = 8;
const SEND_QUEUE: i32 = 2;

/// Reads where a connection stands. Needs CAP_NET_ADMIN. What the kernel would send at this very
/// moment, because room for it has just been announced, it only counts as sent
/// (net/ipv4/tcp_output.c, tcp_write_xmit), and sends it when it is missed: better is a send queue of
/// which everything has been sent.
pub(crate) fn numbers(socket: &impl AsFd) -> io::Result<Numbers> {
    in_repair(socket, || {
        let written = queue_number(socket, SEND_QUEUE)?;
        // Leaves the send queue alone again.
        let received = queue_number(socket, RECEIVE_QUEUE)?;
        let [heard, _, most_room, own_room, told_at] = repair_window(socket)?;
        let edge = told_at.wrapping_add(own_room);
        Ok(Numbers { received, written, heard, most_room, own_room, edge })
    })
}

/// The next byte that the peer is to send. Needs CAP_NET_ADMIN.
pub(crate) fn received(socket: &impl AsFd) -> io::Result<u32> {
    in_repair(socket, || queue_number(socket, RECEIVE_QUEUE))
}

/// The next byte that the peer is to send, and the number where the room ends that it was told to have.
/// Leaves the send queue alone, which is skipped while it is asked (net/ipv4/tcp_output.c,
/// `tcp_write_xmit`). Needs CAP_NET_ADMIN.
pub(crate) fn receive_window(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    in_repair(socket, || {
        let received = queue_number(socket, RECEIVE_QUEUE)?;
        let [.., own_room, told_at] = repair_window(socket)?;
        Ok((received, told_at.wrapping_add(own_room)))
    })
}

/// The packet that last told how much room the peer has. Needs CAP_NET_ADMIN.
pub(crate) fn heard(socket: &impl AsFd) -> io::Result<u32> {
    in_repair(socket, || repair_window(socket).map(|[heard, ..]| heard))
}

fn in_repair<T>(socket: &impl AsFd, ask: impl Fn() -> io::Result<T>) -> io::Result<T> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    let answer = ask();
    leave_repair(socket, REPAIR_OFF_WITHOUT_PROBE)?;
    answer
}

fn leave_repair(socket: &impl AsFd, how: i32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, how)?;
    // That has taken this away (net/ipv4/tcp.c, TCP_REPAIR), and with it the right of others to
    // listen where the socket came from.
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

fn queue_number(socket: &impl AsFd, queue: i32) -> io::Result<u32> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)?;
    // SAFETY: a `u32`: any bytes are a value.
    unsafe { option(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ) }
}

fn set_queue_number(socket: &impl AsFd, queue: i32, number: u32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)?;
    set_int(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ, number.cast_signed())
}

/// `struct tcp_repair_window` (include/uapi/linux/tcp.h): snd_wl1, snd_wnd, max_window, rcv_wnd
/// and rcv_wup.
fn repair_window(socket: &impl AsFd) -> io::Result<[u32; 5]> {
    // SAFETY: an array of `u32`: any bytes are a value.
    unsafe { option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW) }
}

/// Acknowledges what has arrived and has not been acknowledged, if there is anything.
pub(crate) fn acknowledge_now(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

/// Makes a socket close without telling its peer.
pub(crate) fn fall_silent(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// Lets a socket give up its connection: its peer gets a reset, unless the socket has fallen silent.
pub(crate) fn disconnect(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: a struct of integers, of which zeros are a value.
    let mut nobody: libc::sockaddr = unsafe { mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads as many bytes as we say, those of a live value.
    check(unsafe { libc::connect(fd, &raw const nobody, mem::size_of_val(&nobody) as u32) })?;
    Ok(())
}

/// Makes a new socket one end of a connection that stands already, without telling anybody:
/// `connect` says between which addresses. Its next byte has the number `written`, and the peer's
/// next byte `received`; if both use timestamps, they go on from `clock`. Needs CAP_NET_ADMIN.
pub(crate) fn take_up(
    socket: &impl AsFd,
    written: u32,
    received: u32,
    clock: Option<u32>,
    connect: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    in_repair(socket, || {
        set_queue_number(socket, SEND_QUEUE, written)?;
        set_queue_number(socket, RECEIVE_QUEUE, received)?;
        connect()?;
        if let Some(clock) = clock {
            // A peer that uses timestamps need not look at packets without (RFC 7323, 3.2).
            set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &[TCPOPT_TIMESTAMP, 0u32])?;
            // The lowest bit asks for a clock of microseconds.
            set_int(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP, (clock & !1).cast_signed())?;
        }
        // Otherwise it would first have to ask whether there is room for its end.
        let window = [received, ROOM, ROOM, ROOM, received];
        set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window)
    })
}

/// A window that any peer has, in bytes, as far as a FIN is concerned.
const ROOM: u32 = 65_535;

/// Asks the peer of a connection for a sign of life, with a number that it has long had: it
/// answers, and our side does not change. Needs CAP_NET_ADMIN.
pub(crate) fn probe(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    leave_repair(socket, REPAIR_OFF)
}

/// The clock of a connection's timestamps, and CLOCK_MONOTONIC at the same moment in whole
/// milliseconds. The kernel keeps the lowest bit of the former to itself (net/ipv4/tcp.c,
/// TCP_TIMESTAMP): it may be one more.
pub(crate) fn timestamp(socket: &impl AsFd) -> io::Result<(u32, u64)> {
    loop {
        let now = monotonic() / 1_000_000;
        // SAFETY: a `u32`: any bytes are a value.
        let clock = unsafe { option(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP)? };
        if monotonic() / 1_000_000 == now {
            return Ok((clock, now));
        }
    }
}

/// CLOCK_MONOTONIC, in nanoseconds: what BPF programs have as well.
pub(crate) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills one struct, which is live; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Bytes that the peer has room for, beyond what it has acknowledged (from Linux 5.4 on).
pub(crate) fn room(socket: &impl AsFd) -> io::Result<u64> {
    Ok(tcp_info(socket)?.tcpi_snd_wnd.into())
}

/// Whether a connection is gone, by a reset for example.
pub(crate) fn is_closed(socket: &impl AsFd) -> io::Result<bool> {
    Ok(tcp_info(socket)?.tcpi_state == TCP_CLOSE)
}

/// Bytes that arrived and were not yet read.
pub(crate) fn unread(socket: &impl AsFd) -> io::Result<u32> {
    ask(socket, libc::FIONREAD)
}

fn ask(socket: &impl AsFd, request: libc::c_ulong) -> io::Result<u32> {
    let mut answer: libc::c_int = 0;
    // SAFETY: all that is asked for here writes one int (FIONREAD, TIOCOUTQ, SIOCATMARK).
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request as _, &mut answer) })?;
    Ok(answer.unsigned_abs())
}

/// Memory that the send queue takes, in bytes, bookkeeping included.
pub(crate) fn send_memory(socket: &impl AsFd) -> io::Result<u32> {
    memory(socket).map(|[_, sent]| sent)
}

/// Memory that everything takes that arrived, in order or not, in bytes.
pub(crate) fn receive_memory(socket: &impl AsFd) -> io::Result<u32> {
    memory(socket).map(|[received, _]| received)
}

fn memory(socket: &impl AsFd) -> io::Result<[u32; 2]> {
    // include/uapi/linux/sock_diag.h: SK_MEMINFO_VARS, with SK_MEMINFO_RMEM_ALLOC and
    // SK_MEMINFO_WMEM_QUEUED among them.
    // SAFETY: an array of `u32`: any bytes are a value.
    let values: [u32; 9] = unsafe { option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)? };
    Ok([values[0], values[5]])
}

/// Bytes that were written and not yet acknowledged.
pub(crate) fn send_queue(socket: &impl AsFd) -> io::Result<u64> {
    // The same number as SIOCOUTQ.
    ask(socket, libc::TIOCOUTQ).map(Into::into)
}

/// Raises the limit of open files to the most that is allowed; returns it.
pub(crate) fn raise_nofile() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills one struct.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one struct.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Lifts the limit of locked memory, which kernels before 5.11 charge BPF maps to.
pub(crate) fn lift_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel reads one struct. A refusal shows when maps are created, if it matters.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

/// Of linux/capability.h.
pub(crate) const CAP_PERFMON: u32 = 38;

/// Whether the thread holds a capability.
pub(crate) fn has_capability(number: u32) -> bool {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3, and ourselves.
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: of this version the kernel writes a header and two sets, which are live and laid out as
    // it has them (linux/capability.h).
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    let word = sets.get(number as usize / 32).map_or(0, |sets| sets.effective);
    result == 0 && word & (1 << (number % 32)) != 0
}

/// The user whose rights the process has.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: the call only reads.
    unsafe { libc::geteuid() }
}

/// Splits the process; the parent gets the child's id.
///
/// # Safety
/// The process must have one thread: a lock that another one holds is never released in the child.
pub(crate) unsafe fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: as the caller promises; our own thread is in no lock of the allocator or of others.
    match check(unsafe { libc::fork() })? {
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Waits for the end of a child; its exit code, 70 if it was killed.
pub(crate) fn wait(child: libc::pid_t) -> io::Result<u8> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as u8 } else { 70 })
}

/// Has all descriptors from this one on closed in programs that are run from now on. Before Linux 5.11
/// what was inherited stays open.
pub(crate) fn close_on_exec(from: i32) {
    // SAFETY: the call takes numbers only, and closes nothing in this process.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// The number of the program that sees first what arrives on an interface, if there is one (from Linux 6.6
/// on). Needs CAP_NET_ADMIN.
pub(crate) fn first_on_ingress(interface: u32) -> io::Result<Option<u32>> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    /// Of `union bpf_attr`, include/uapi/linux/bpf.h.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        interface: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut first = 0u32;
    let programs = (&raw mut first).expose_provenance() as u64;
    let attach_type = BPF_TCX_INGRESS;
    let mut query = Query { interface, attach_type, programs, count: 1, ..Query::default() };
    let size = size_of::<Query>();
    // SAFETY: the kernel reads and fills one struct of that size, and one number where that says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size) };
    match check(result as libc::c_int) {
        // ENOSPC: there are more than we have room for.
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => Err(error),
        _ => Ok((query.count > 0).then_some(first)),
    }
}

/// Waits until every processor has left what the kernel was doing on it: a grace period of RCU
/// (kernel/sched/membarrier.c). Refused where processors may be kept free of interrupts; on a single
/// processor it returns at once, as who runs there has left it.
pub(crate) fn grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers only, and waits.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    check(result as libc::c_int).map(drop)
}

/// Makes the process the leader of a session of its own, without a terminal.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: the call takes and touches no memory.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// Puts an open file in the place of a standard stream.
pub(crate) fn replace(file: BorrowedFd<'_>, standard: i32) -> io::Result<()> {
    assert!((0..=2).contains(&standard), "descriptor {standard} may be somebody's");
    // SAFETY: standard input, output and error, which no others get here, are owned by nobody in
    // Rust's library: it writes to whatever is open there.
    check(unsafe { libc::dup2(file.as_raw_fd(), standard) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn the_send_state_counts_what_was_written_and_what_was_acknowledged() {
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
