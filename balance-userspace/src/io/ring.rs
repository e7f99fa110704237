//! Operations on the worker's io_uring that tokio-uring does not offer by itself, submitted
//! through it.
//!
//! The ring is used for waiting: for clients to accept and for sockets to become ready. Bytes
//! are then moved by plain non-blocking calls, so that no buffer belongs to the kernel while a
//! connection is idle. Invariant: an operation keeps what it works on open until its
//! completion has arrived, also when its future has been dropped meanwhile.

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

/// Waits for one of `events` (poll(2)), for an error or for the end of the peer's side;
/// returns what holds now.
pub(crate) async fn poll(stream: &Rc<Stream>, events: i16) -> io::Result<i16> {
    let fd = types::Fd(stream.as_raw_fd());
    let entry = opcode::PollAdd::new(fd, events.cast_unsigned().into()).build();
    Ok(submit(Rc::clone(stream), entry).await? as i16)
}

/// Whether the kernel can end pending operations by descriptor.
pub(crate) fn can_cancel() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 19, 0))
}

/// Ends all pending operations on a stream that is about to be closed, so that nothing keeps it
/// open.
pub(crate) async fn cancel(stream: &Rc<Stream>) {
    if can_cancel() {
        return cancel_all(stream).await;
    }
    // Without a connection all waits on a socket are over. It ends as closing would end it: a
    // shutdown is an end of stream, and must not be what a peer sees of a connection that broke.
    let _ = match stream.linger() {
        Ok(None) => stream.shutdown(std::net::Shutdown::Both),
        _ => sys::disconnect(stream),
    };
}

/// Ends all accepts that wait on a listener. Only where the ring can.
pub(crate) async fn cancel_accepts(listener: &Rc<Socket>) {
    cancel_all(listener).await;
}

async fn cancel_all<T: AsFd + 'static>(socket: &Rc<T>) {
    let which = types::CancelBuilder::fd(types::Fd(socket.as_fd().as_raw_fd())).all();
    let entry = opcode::AsyncCancel2::new(which).build();
    // Refused where there is nothing to end.
    let _ = submit(Rc::clone(socket), entry).await;
}

/// Accepts a connection.
///
/// Must run to completion: a connection that arrives for a dropped future would be lost.
/// [`cancel_accepts`] completes it.
pub(crate) async fn accept(listener: &Rc<Socket>) -> io::Result<OwnedFd> {
    let fd = types::Fd(listener.as_raw_fd());
    let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
        .flags(libc::SOCK_CLOEXEC)
        .build();
    let fd = submit(Rc::clone(listener), entry).await?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

async fn submit<T: Unpin + 'static>(keep: T, entry: squeue::Entry) -> io::Result<i32> {
    UnsubmittedOneshot::new(keep, Outcome(PhantomData), entry).submit().await
}

/// The plain result of an operation on a `T`.
struct Outcome<T>(PhantomData<T>);

impl<T> OneshotOutputTransform for Outcome<T> {
    type Output = io::Result<i32>;
    type StoredData = T;

    fn transform_oneshot_output(self, _: T, entry: cqueue::Entry) -> io::Result<i32> {
        let result = entry.result();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    }
}

/// Entries of the submission queue; it is flushed when full.
const RING_ENTRIES: u32 = 1024;

/// Makes the runtime of a worker, so that a refusal is known before anything is served.
pub(crate) fn runtime() -> io::Result<tokio_uring::Runtime> {
    let runtime = |ring| {
        let mut builder = tokio_uring::builder();
        tokio_uring::Runtime::new(builder.entries(RING_ENTRIES).uring_builder(ring))
    };
    // The worker is not interrupted for completions: it finds them when it asks for them.
    match runtime(tokio_uring::uring_builder().setup_coop_taskrun()) {
        // A kernel before 5.19.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => runtime(&tokio_uring::uring_builder()),
        result => result,
    }
}
