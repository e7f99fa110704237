//! The channel between a supervisor and a server process: JSON lines with descriptors, on a stream
//! socket.
//!
//! Invariant: the descriptors of a message arrive with its first byte, in the order of the
//! messages. A receiver takes as many as the message says.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::Interest,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;

/// The descriptor at which a server process finds its channel.
pub(crate) const FD: RawFd = 3;

/// The most descriptors of one message. The kernel's limit is 253 (include/net/scm.h, SCM_MAX_FD).
const MAX_FDS: usize = 250;

/// The end of a channel that a process has not begun to use.
#[derive(Debug)]
pub struct Supervision(StdStream);

impl Supervision {
    /// Takes the channel from the supervisor.
    ///
    /// # Safety
    /// To be called at most once, before this process opens a descriptor, in a process that a
    /// supervisor has started.
    pub unsafe fn from_supervisor() -> Self {
        // SAFETY: the supervisor has opened this descriptor for this process, and by this
        // function's contract nothing in this process owns it.
        Self(unsafe { StdStream::from_raw_fd(FD) })
    }

    /// Sends the only message of a process that cannot start.
    pub(crate) fn send_last(&mut self, message: &impl Serialize) {
        // The supervisor may be gone.
        if let Ok(line) = serde_json::to_vec(message) {
            let _ = self.0.write_all(&[&line[..], b"\n"].concat());
        }
    }

    /// Splits the channel. Must be called inside a Tokio runtime.
    pub(crate) fn split(self) -> io::Result<(Receiver, Sender)> {
        split(self.0)
    }
}

/// Splits one end of a channel. Must be called inside a Tokio runtime.
pub(crate) fn split(stream: StdStream) -> io::Result<(Receiver, Sender)> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream).map(from_stream)
}

/// Splits one end of a channel.
pub(crate) fn from_stream(stream: UnixStream) -> (Receiver, Sender) {
    let (read, write) = stream.into_split();
    let (queue, messages) = unbounded_channel();
    let writer = tokio::spawn(write_all(write, messages));
    let receiver = Receiver { stream: read, bytes: Vec::new(), fds: VecDeque::new() };
    (receiver, Sender { queue, writer: Arc::new(writer) })
}

/// A message as a line, and its descriptors.
type Message = (Vec<u8>, Vec<OwnedFd>);

/// The sending half. A task of its own writes, so that a slow reader holds nothing up.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    queue: UnboundedSender<Message>,
    writer: Arc<JoinHandle<()>>,
}

impl Sender {
    /// Sends a message with descriptors. The other process may be gone.
    pub(crate) fn send(&self, message: &impl Serialize, fds: Vec<OwnedFd>) {
        let mut line = serde_json::to_vec(message).expect("all messages have a JSON form");
        line.push(b'\n');
        let _ = self.queue.send((line, fds));
    }

    /// Waits until everything is written, for at most `limit`.
    pub(crate) async fn flush(self, limit: Duration) {
        let Self { queue, writer } = self;
        drop(queue);
        if let Ok(writer) = Arc::try_unwrap(writer) {
            let _ = timeout(limit, writer).await;
        }
    }
}

/// Writes all messages.
async fn write_all(write: OwnedWriteHalf, mut messages: UnboundedReceiver<Message>) {
    while let Some((line, fds)) = messages.recv().await {
        if let Err(error) = write_one(&write, &line, &fds).await {
            debug!(%error, "the other end of the channel is gone");
            return;
        }
    }
}

async fn write_one(write: &OwnedWriteHalf, line: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let stream: &UnixStream = write.as_ref();
    // Blanks before a message carry its descriptors.
    for fds in fds.chunks(MAX_FDS) {
        let fds: Vec<RawFd> = fds.iter().map(OwnedFd::as_raw_fd).collect();
        send(stream, b" ", &fds).await?;
    }
    let mut rest = line;
    while !rest.is_empty() {
        let n = send(stream, rest, &[]).await?;
        rest = &rest[n..];
    }
    Ok(())
}

async fn send(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    stream
        .async_io(Interest::WRITABLE, || {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            let sent =
                sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None);
            sent.map_err(Into::into)
        })
        .await
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: OwnedReadHalf,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Waits for the next message; `None` if the other process is gone. The future may be dropped:
    /// nothing is lost.
    ///
    /// # Errors
    /// When a message cannot be read.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            let stream: &UnixStream = self.stream.as_ref();
            let (bytes, fds) = (&mut self.bytes, &mut self.fds);
            let n = stream.async_io(Interest::READABLE, || receive(stream, bytes, fds)).await?;
            if n == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes descriptors of the last message.
    ///
    /// # Errors
    /// When the message came with fewer.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if self.fds.len() < count {
            self.fds.clear();
            return Err(io::Error::other("descriptors of a message are missing"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}

fn receive(
    stream: &UnixStream,
    bytes: &mut Vec<u8>,
    fds: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut buffer = [0; 16 << 10];
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let (n, received) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let mut received = Vec::new();
        // Without free descriptors the kernel cuts the list off. The message then lacks them.
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(fds) = control {
                received.extend(fds);
            }
        }
        (message.bytes, received)
    };
    // SAFETY: the kernel has opened these descriptors for this process with this message.
    fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
    bytes.extend(&buffer[..n]);
    Ok(n)
}
