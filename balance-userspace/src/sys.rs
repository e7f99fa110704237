//! System calls that no crate of ours offers, each behind a safe function.
//!
//! Invariant: the only module besides the mapped flow table that calls libc; every function
//! takes a borrowed descriptor, so that it is open for the length of the call.

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
pub(crate) fn recv(socket: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
    check_len(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
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
    let fd = socket.as_fd().as_raw_fd();
    let value: libc::c_int = value;
    // SAFETY: the kernel reads as many bytes as we say the value has.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            mem::size_of_val(&value) as u32,
        )
    })?;
    Ok(())
}

/// Which of `events` hold at this moment (poll(2)); errors are always among them.
pub(crate) fn poll_now(socket: &impl AsFd, events: i16) -> io::Result<i16> {
    let mut entry = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: one entry, as we say; a timeout of zero does not wait.
    check(unsafe { libc::poll(&raw mut entry, 1, 0) })?;
    Ok(entry.revents)
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
    head: [u8; 7],
    words: [u32; 24],
    tcpi_pacing_rate: u64,
    tcpi_max_pacing_rate: u64,
    tcpi_bytes_acked: u64,
}

fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: all-zero is a value of this struct of integers.
    let mut info: TcpInfo = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to a struct of that size.
    check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut len)
    })?;
    Ok(info)
}

/// Memory that the send queue takes, in bytes, bookkeeping included.
pub(crate) fn send_memory(socket: &impl AsFd) -> io::Result<u32> {
    // include/uapi/linux/sock_diag.h: SK_MEMINFO_VARS, and SK_MEMINFO_WMEM_QUEUED among them.
    let mut values = [0u32; 9];
    let mut len = mem::size_of_val(&values) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to an array of that size.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, (&raw mut values).cast(), &mut len)
    })?;
    Ok(values[5])
}

/// Bytes that were written and not yet acknowledged.
pub(crate) fn send_queue(socket: &impl AsFd) -> io::Result<u64> {
    let mut queued: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (same number as TIOCOUTQ) writes one int.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut queued) })?;
    Ok(queued.unsigned_abs().into())
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

/// The user whose rights the process has.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: the call only reads.
    unsafe { libc::geteuid() }
}

/// Splits the process; the parent gets the child's id. The process must have one thread.
pub(crate) fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: with a single thread no lock of the allocator or of others is held half-way.
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

/// Makes the process the leader of a session of its own, without a terminal.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: the call takes and touches no memory.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// Puts an open file in the place of a standard stream.
pub(crate) fn replace(file: BorrowedFd<'_>, standard: i32) -> io::Result<()> {
    // SAFETY: standard input, output and error are owned by nobody in Rust's library: it writes
    // to whatever is open there.
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
