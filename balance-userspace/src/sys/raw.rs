//! System calls that no crate of the program offers in the form it needs.
//!
//! Invariant: the only file of `sys` that calls libc functions. A failed call returns its errno.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::errno::Errno;

/// Sets a socket option. `T` must be a type without padding, such as the integers that the kernel
/// reads.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), mem::size_of_val(value) as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes, the size of the live value.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), len) };
    Ok(Errno::result(result).map(drop)?)
}

/// Reads a socket option. The kernel may write fewer bytes than `T` has; the rest is zero.
///
/// # Safety
/// Every byte pattern must be a value of `T`.
pub(super) unsafe fn option<T: Copy>(socket: &impl AsFd, level: i32, name: i32) -> io::Result<T> {
    // SAFETY: zeros are a value of `T`, as the caller promises.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to a live value of that size. Any bytes are a
    // value of `T`, as the caller promises.
    let result =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    Errno::result(result)?;
    Ok(value)
}

/// The ioctl requests that [`ioctl_int`] accepts. Each writes one `int`.
#[derive(Clone, Copy)]
pub(super) enum IntRequest {
    /// Bytes in the receive queue (FIONREAD).
    Unread,
    /// Bytes in the send queue (TIOCOUTQ, the same number as SIOCOUTQ).
    SendQueue,
    /// Whether the next byte is urgent (SIOCATMARK, include/uapi/asm-generic/sockios.h).
    AtUrgentMark,
}

/// Reads the `int` of an ioctl request.
pub(super) fn ioctl_int(socket: &impl AsFd, request: IntRequest) -> io::Result<u32> {
    const SIOCATMARK: libc::c_ulong = 0x8905;
    let request = match request {
        IntRequest::Unread => libc::FIONREAD,
        IntRequest::SendQueue => libc::TIOCOUTQ,
        IntRequest::AtUrgentMark => SIOCATMARK,
    };
    let mut value: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: each of these requests writes one `int`, which is live.
    Errno::result(unsafe { libc::ioctl(fd, request as _, &raw mut value) })?;
    Ok(value.unsigned_abs())
}

/// Calls connect(2) with the address family AF_UNSPEC, which dissolves the connection of a socket.
pub(super) fn connect_to_unspecified(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: a struct of integers, of which zeros are a value.
    let mut address: libc::sockaddr = unsafe { mem::zeroed() };
    address.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let (fd, len) = (socket.as_fd().as_raw_fd(), mem::size_of_val(&address) as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes, the size of the live value.
    Ok(Errno::result(unsafe { libc::connect(fd, &raw const address, len) }).map(drop)?)
}

/// Polls descriptors without waiting, and fills their `revents` (poll(2)). nix's `poll` takes only
/// open descriptors and drops flags that it does not know, POLLRDHUP among them.
pub(super) fn poll_now(entries: &mut [libc::pollfd]) -> io::Result<()> {
    let (start, len) = (entries.as_mut_ptr(), entries.len() as libc::nfds_t);
    // SAFETY: `start` and `len` are those of a live, exclusively borrowed slice.
    Ok(Errno::result(unsafe { libc::poll(start, len, 0) }).map(drop)?)
}

/// Marks all descriptors from `first` on as close-on-exec (from Linux 5.11 on).
pub(super) fn close_range_on_exec(first: i32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call takes numbers only. With this flag it closes no descriptor of this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    Ok(Errno::result(result).map(drop)?)
}

/// Calls membarrier(2) with MEMBARRIER_CMD_GLOBAL.
pub(super) fn membarrier_global() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    Ok(Errno::result(result).map(drop)?)
}

/// The number of programs attached to the tcx ingress hook of an interface, and the id of the
/// first, which is 0 without programs (BPF_PROG_QUERY of bpf(2)).
pub(super) fn query_tcx_ingress(interface: u32) -> io::Result<(u32, u32)> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    /// The part of `union bpf_attr` for this command (include/uapi/linux/bpf.h).
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        interface: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        link_ids: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut first = 0u32;
    let program_ids = (&raw mut first).expose_provenance() as u64;
    let attach_type = BPF_TCX_INGRESS;
    let mut query = Query { interface, attach_type, program_ids, count: 1, ..Query::default() };
    let size = size_of::<Query>();
    // SAFETY: the kernel reads and writes one live struct of that size. It writes at most `count`,
    // one, id to `program_ids`, the address of a live number.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size) };
    match Errno::result(result) {
        // ENOSPC: more than one program is attached.
        Ok(_) | Err(Errno::ENOSPC) => Ok((query.count, first)),
        Err(error) => Err(error.into()),
    }
}
