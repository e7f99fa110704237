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

use io_uring::{cqueue, opcode, squeue, types};
use socket2::{SockRef, Socket};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use crate::stream::Stream;

/// Waits for one of `events` (poll(2)), for an error or for the end of the peer's side;
/// returns what holds now.
pub(crate) async fn poll(stream: &Rc<Stream>, events: i16) -> io::Result<i16> {
    let fd = types::Fd(stream.as_raw_fd());
    let entry = opcode::PollAdd::new(fd, events.cast_unsigned().into()).build();
    Ok(submit(Rc::clone(stream), entry).await? as i16)
}

/// Ends all pending operations on a stream, or on a listener, so that nothing keeps it open.
pub(crate) async fn cancel<T: AsFd + 'static>(socket: &Rc<T>) {
    let which = types::CancelBuilder::fd(types::Fd(socket.as_fd().as_raw_fd())).all();
    let entry = opcode::AsyncCancel2::new(which).build();
    let result = submit(Rc::clone(socket), entry).await;
    if result.is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
        // A kernel before 5.19 cannot cancel by descriptor. Shutting the socket down completes
        // everything; what a stream has queued stays ahead of the FIN, and the reset follows at once.
        let _ = SockRef::from(&**socket).shutdown(std::net::Shutdown::Both);
    }
}

/// Accepts a connection.
///
/// Must run to completion: a connection that arrives for a dropped future would be lost.
/// [`cancel`] completes it.
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
