//! Operations on the worker's io_uring that tokio-uring does not offer itself. They are submitted
//! through tokio-uring.
//!
//! The ring only waits: for clients to accept and for sockets to become ready. Plain non-blocking
//! calls then move the bytes, so no buffer belongs to the kernel while a connection is idle.
//!
//! Invariant: an operation keeps its socket open until its completion has arrived, even if its
//! future has been dropped.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
    rc::Rc,
};

use aya::util::KernelVersion;
use io_uring::{cqueue, opcode, squeue, types};
use socket2::Socket;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use crate::{io::stream::Stream, sys};

/// Waits for one of `events` (poll(2)), for an error or for the peer's FIN. Returns the events that
/// hold now.
pub(crate) async fn poll(stream: &Rc<Stream>, events: i16) -> io::Result<i16> {
    let fd = types::Fd(stream.as_raw_fd());
    let entry = opcode::PollAdd::new(fd, events.cast_unsigned().into()).build();
    Ok(submit(Rc::clone(stream), entry).await? as i16)
}

/// Whether the kernel can cancel pending operations by descriptor.
pub(crate) fn can_cancel() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 19, 0))
}

/// Ends all pending operations on a stream that is about to be closed, so that none keeps the
/// socket open.
pub(crate) async fn cancel(stream: &Rc<Stream>) {
    if can_cancel() {
        return cancel_all(stream).await;
    }
    // Without a connection all waits on a socket complete. The connection must end here as it would
    // end on close: shutdown(2) sends FIN, which the peer of a failed connection must not receive.
    let _ = match stream.linger() {
        Ok(None) => stream.shutdown(std::net::Shutdown::Both),
        _ => sys::disconnect(stream),
    };
}

/// Ends all pending accepts on a listener. Requires [`can_cancel`].
pub(crate) async fn cancel_accepts(listener: &Rc<Socket>) {
    cancel_all(listener).await;
}

async fn cancel_all<T: AsFd + 'static>(socket: &Rc<T>) {
    let which = types::CancelBuilder::fd(types::Fd(socket.as_fd().as_raw_fd())).all();
    let entry = opcode::AsyncCancel2::new(which).build();
    // The result is an error if no operation was pending.
    let _ = submit(Rc::clone(socket), entry).await;
}

/// Accepts a connection.
///
/// The future must run to completion: a connection that arrives for a dropped future is lost.
/// [`cancel_accepts`] completes it.
pub(crate) async fn accept(listener: &Rc<Socket>) -> io::Result<OwnedFd> {
    let fd = types::Fd(listener.as_raw_fd());
    let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
        .flags(libc::SOCK_CLOEXEC)
        .build();
    let fd = submit(Rc::clone(listener), entry).await?;
    // SAFETY: the kernel has just opened this descriptor for this operation, so it has no other
    // owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

async fn submit<T: Unpin + 'static>(keep: T, entry: squeue::Entry) -> io::Result<i32> {
    UnsubmittedOneshot::new(keep, PlainResult(PhantomData), entry).submit().await
}

/// Converts the completion of an operation on a `T` to the result of a system call.
struct PlainResult<T>(PhantomData<T>);

impl<T> OneshotOutputTransform for PlainResult<T> {
    type Output = io::Result<i32>;
    type StoredData = T;

    fn transform_oneshot_output(self, _: T, entry: cqueue::Entry) -> io::Result<i32> {
        let result = entry.result();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    }
}

/// Entries of the submission queue. A full queue is submitted.
const RING_ENTRIES: u32 = 1024;

/// Creates the runtime of a worker.
///
/// # Errors
/// When the kernel does not allow an io_uring. A caller finds out before any client is accepted.
pub(crate) fn runtime() -> io::Result<tokio_uring::Runtime> {
    let runtime = |ring| {
        let mut builder = tokio_uring::builder();
        tokio_uring::Runtime::new(builder.entries(RING_ENTRIES).uring_builder(ring))
    };
    // Completions do not interrupt the worker. It finds them when it enters the kernel.
    match runtime(tokio_uring::uring_builder().setup_coop_taskrun()) {
        // Before Linux 5.19.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => runtime(&tokio_uring::uring_builder()),
        result => result,
    }
}
