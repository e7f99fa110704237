//! The socket between a supervisor and a server process: a Unix stream socket that carries JSON
//! lines with descriptors.
//!
//! Invariants:
//! - The descriptors of a message arrive with the blanks before the message.
//! - A receiver gets all descriptors of a message or none. It never gets those of another message.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recv, recvmsg,
        sockopt::set_socket_passcred,
    },
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
use tracing::{debug, warn};

/// The descriptor at which a server process finds its socket.
pub(crate) const FD: RawFd = 3;

/// The most descriptors of one message. With the room for the sender's credentials a receiver has
/// room for eight more, which stays below the kernel's limit of 253 (include/net/scm.h, SCM_MAX_FD).
const MAX_FDS: usize = 240;

/// The longest message in bytes: room for the arguments of many thousand instances.
const MESSAGE_LIMIT: usize = 64 << 20;

/// The socket of a server process to its supervisor, before its first use.
#[derive(Debug)]
pub struct Supervision(StdStream);

impl Supervision {
    /// Takes the socket that the supervisor has opened.
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
        // The supervisor may have ended.
        if let Ok(line) = serde_json::to_vec(message) {
            let _ = self.0.write_all(&[&line[..], b"\n"].concat());
        }
    }

    /// Splits the socket. Must be called inside a Tokio runtime.
    pub(crate) fn split(self) -> io::Result<(Receiver, Sender)> {
        split(self.0)
    }
}

/// Splits a socket. Must be called inside a Tokio runtime.
pub(crate) fn split(stream: StdStream) -> io::Result<(Receiver, Sender)> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream).map(from_stream)
}

/// Splits a socket.
pub(crate) fn from_stream(stream: UnixStream) -> (Receiver, Sender) {
    let (read, write) = stream.into_split();
    let (queue, messages) = unbounded_channel();
    let writer = tokio::spawn(write_all(write, messages));
    let receiver = Receiver { stream: read, received: Received::default(), fds: VecDeque::new() };
    (receiver, Sender { queue, writer: Arc::new(writer) })
}

/// A message as a line, and its descriptors.
type Message = (Vec<u8>, Vec<OwnedFd>);

/// The sending half. A task of its own writes, so a slow reader delays no sender.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    queue: UnboundedSender<Message>,
    writer: Arc<JoinHandle<()>>,
}

impl Sender {
    /// Queues a message with descriptors. A message to a process that has ended is lost.
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
            debug!(%error, "the other process has closed the socket");
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
    received: Received,
    /// The descriptors of the last message.
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Has the kernel tell which process sends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn ask_for_sender(&self) -> io::Result<()> {
        let stream: &UnixStream = self.stream.as_ref();
        set_socket_passcred(stream, true)?;
        Ok(())
    }

    /// The process that has sent the last bytes, as the kernel knows it. None unless asked for
    /// before.
    pub(crate) fn sender(&self) -> Option<rustix::process::Pid> {
        self.received.sender
    }

    /// Waits for the next message; `None` when the other process has closed the socket. Skips a
    /// message that this program does not know. Dropping the future loses no byte. Closes the
    /// descriptors of the last message that were not taken.
    ///
    /// # Errors
    /// When a message cannot be received, or is longer than [`MESSAGE_LIMIT`].
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some((line, fds)) = self.received.next() {
                self.fds = fds.into();
                match serde_json::from_slice(&line) {
                    Ok(message) => return Ok(Some(message)),
                    // The other program may be of another version.
                    Err(error) => {
                        warn!(%error, "unknown message skipped");
                        continue;
                    }
                }
            }
            let stream: &UnixStream = self.stream.as_ref();
            let received = &mut self.received;
            let n = stream.async_io(Interest::READABLE, || received.receive(stream)).await?;
            if n == 0 {
                return Ok(None);
            }
            if received.bytes.len() > MESSAGE_LIMIT {
                return Err(io::Error::other("the message is too long"));
            }
        }
    }

    /// Whether the other process has closed the socket and sent nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        let stream: &UnixStream = self.stream.as_ref();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(stream, &mut [0u8; 1][..], flags), Ok((_, 0)))
    }

    /// Takes the next descriptors of the last message.
    ///
    /// # Errors
    /// When the message has come with fewer, as at the limit of open files.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if self.fds.len() < count {
            self.fds.clear();
            return Err(io::Error::other("descriptors of a message are missing"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}

/// What has arrived and is no part of a returned message.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// The number of bytes at the beginning without the end of a message.
    scanned: usize,
    /// The number of bytes of the returned messages.
    returned: u64,
    batches: VecDeque<Batch>,
    sender: Option<rustix::process::Pid>,
}

/// Descriptors that have arrived together.
#[derive(Debug)]
struct Batch {
    /// The number of bytes that had arrived by then. The byte that carried the descriptors is the
    /// last of them.
    until: u64,
    fds: Vec<OwnedFd>,
    /// The kernel has passed on all of them.
    is_complete: bool,
}

impl Received {
    /// The next message with its descriptors, or without any if one of them is missing.
    fn next(&mut self) -> Option<Message> {
        let found = self.bytes[self.scanned..].iter().position(|&byte| byte == b'\n');
        let Some(end) = found.map(|at| self.scanned + at) else {
            self.scanned = self.bytes.len();
            return None;
        };
        self.scanned = 0;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        self.returned += line.len() as u64;
        let later = self.batches.iter().position(|batch| batch.until > self.returned);
        let own = self.batches.drain(..later.unwrap_or(self.batches.len()));
        let (mut fds, mut is_complete) = (Vec::new(), true);
        for batch in own {
            fds.extend(batch.fds);
            is_complete &= batch.is_complete;
        }
        Some((line, if is_complete { fds } else { Vec::new() }))
    }

    /// Receives bytes, and at most one batch of descriptors. Returns the number of bytes.
    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = recvmsg(stream, &mut slices, &mut control, flags)?;
        let (n, flags) = (message.bytes, message.flags);
        self.bytes.extend(&buffer[..n]);
        let mut fds = Vec::new();
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
                RecvAncillaryMessage::ScmCredentials(sender) => self.sender = Some(sender.pid),
                _ => {}
            }
        }
        // Without free descriptors the kernel cuts the list off, perhaps to nothing.
        let is_complete = !flags.contains(ReturnFlags::CTRUNC);
        if !fds.is_empty() || !is_complete {
            // A call ends with the byte that carries descriptors (unix_stream_read_generic in
            // net/unix/af_unix.c).
            let until = self.returned + self.bytes.len() as u64;
            self.batches.push_back(Batch { until, fds, is_complete });
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::MetadataExt as _,
    };

    use super::*;

    /// More descriptors than a receiver has room for. The kernel's limit is 253.
    const TOO_MANY: usize = 253;

    fn file(folder: &tempfile::TempDir, name: &str) -> (File, u64) {
        let file = File::create(folder.path().join(name)).unwrap();
        let inode = file.metadata().unwrap().ino();
        (file, inode)
    }

    /// The number of descriptors of this process for an inode.
    fn open(inode: u64) -> usize {
        let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter(|fd| fs::metadata(fd.path()).is_ok_and(|found| found.ino() == inode)).count()
    }

    #[tokio::test]
    async fn a_cut_off_list_is_closed_and_the_next_message_keeps_its_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let [(cut_off, first), (whole, second)] = ["a", "b"].map(|name| file(&folder, name));
        let (one, other) = StdStream::pair().unwrap();
        let (mut receiver, _sender) = split(one).unwrap();
        // Everything has arrived before the receiver begins.
        other.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(other).unwrap();
        let too_many = vec![cut_off.as_raw_fd(); TOO_MANY];
        send(&stream, b" ", &too_many).await.unwrap();
        send(&stream, b"1\n", &[]).await.unwrap();
        send(&stream, b" ", &[whole.as_raw_fd()]).await.unwrap();
        send(&stream, b" ", &[whole.as_raw_fd()]).await.unwrap();
        send(&stream, b"2\n3\n", &[]).await.unwrap();

        assert_eq!(receiver.next().await.unwrap(), Some(1));
        assert_eq!(open(first), 1);
        assert!(receiver.take(1).is_err());
        assert_eq!(receiver.next().await.unwrap(), Some(2));
        let taken = receiver.take(1).unwrap().remove(0);
        assert_eq!(File::from(taken).metadata().unwrap().ino(), second);
        assert_eq!(open(second), 2);
        assert_eq!(receiver.next().await.unwrap(), Some(3));
        assert_eq!(open(second), 1);
        assert!(receiver.take(1).is_err());
    }
}
