//! Notifications to the service manager, by sd_notify(3).
//!
//! Invariants: without NOTIFY_SOCKET nothing is sent, and a receiver that has gone is no failure.
//! The socket is connected once, at the start, because the process may later run as a user that may
//! not connect.

use std::{
    env,
    io::{self, IoSlice},
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::OnceLock,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use socket2::Socket;

/// The extra time that one message requests.
pub(crate) const EXTENSION: Duration = Duration::from_secs(10);

/// The most descriptors of one message. The kernel's limit is 253 (include/net/scm.h, SCM_MAX_FD).
const MAX_FDS: usize = 250;

/// How long [`send_reliably`] waits for the receiver.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The status text while connections end.
pub(crate) fn draining(open: usize) -> String {
    format!("stopping, waiting for {open} connection{}", if open == 1 { "" } else { "s" })
}

/// Whether a process waits for notifications (NOTIFY_SOCKET is set).
pub fn is_enabled() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Connects to the receiver, if there is one.
pub(crate) fn start() {
    socket();
}

fn socket() -> Option<&'static UnixDatagram> {
    static SOCKET: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    SOCKET.get_or_init(|| connect().ok()).as_ref()
}

fn connect() -> io::Result<UnixDatagram> {
    let path = env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
    let socket = UnixDatagram::unbound()?;
    // A receiver that does not read must not delay the process.
    socket.set_nonblocking(true)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

/// Reports that the process serves.
pub(crate) fn ready() {
    send_reliably(&[NotifyState::Ready]);
}

/// Sends a message that must not be lost: waits up to [`SEND_TIMEOUT`] if the receiver's queue is
/// full.
fn send_reliably(state: &[NotifyState<'_>]) {
    if let Some(socket) = socket() {
        let _ = socket.set_nonblocking(false);
        send(state);
        let _ = socket.set_nonblocking(true);
    }
}

/// Keeps listeners in the manager's descriptor store, so that the next process of the service gets
/// them (sd_pid_notify_with_fds(3)).
pub(crate) fn store(name: &str, listeners: &[Socket]) {
    let Some(socket) = socket() else { return };
    let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
    for listeners in listeners.chunks(MAX_FDS) {
        let fds: Vec<_> = listeners.iter().map(Socket::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let text = [IoSlice::new(text.as_bytes())];
        // Without a store the manager closes the descriptors.
        let _ = sendmsg::<()>(socket.as_raw_fd(), &text, &rights, MsgFlags::MSG_NOSIGNAL, None);
    }
}

/// Removes listeners from the manager's descriptor store.
pub(crate) fn remove_from_store(name: &str) {
    send_text(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
}

/// Reports that the process works, to a manager that watches it (WatchdogSec).
pub(crate) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Requests [`EXTENSION`] to start. Repeat this before the time is over.
pub(crate) fn starting() {
    send(&[extend()]);
}

/// Reports that the process reads its configuration again. Call [`ready`] afterwards.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Reports that the process stops, and requests [`EXTENSION`] for the open connections. Repeat this
/// before the time is over.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, extend()]);
}

fn extend() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX))
}

/// Reports a status text for people.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// Reports why the process ends.
pub fn failed(reason: &str) {
    send(&[NotifyState::Status(reason)]);
}

fn send(state: &[NotifyState<'_>]) {
    let lines: Vec<_> = state.iter().map(ToString::to_string).collect();
    send_text(&lines.join("\n"));
}

fn send_text(text: &str) {
    if let Some(socket) = socket() {
        // The receiver may have exited.
        let _ = socket.send(text.as_bytes());
    }
}
