//! What is told to whoever started the process and waits for it: a service manager, by sd_notify(3),
//! or our own supervisor, which speaks the same.
//!
//! Invariant: where nobody waits nothing is said, and that nobody listens is no failure. The socket is
//! connected once, at the start: the process may be another user's later, who could not.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::OnceLock,
    time::Duration,
};

use sd_notify::NotifyState;

/// What stands before the number of connections in a message; managers pass over what they do not
/// know.
pub(crate) const CONNECTIONS: &str = "X_BALANCE_CONNECTIONS";

/// Says that the process accepts no more, and that its listeners and its names are free.
pub(crate) const RELEASED: &str = "X_BALANCE_RELEASED";

/// Time that is asked for at a time.
pub(crate) const MORE: Duration = Duration::from_secs(10);

/// How long [`say_surely`] waits for the receiver.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it is while connections end.
pub(crate) fn draining(open: usize) -> String {
    format!("stopping, {open} connection{} yet to end", if open == 1 { " has" } else { "s have" })
}

/// Whether somebody waits for what is said here.
pub fn is_awaited() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Connects to whoever waits.
pub(crate) fn begin() {
    socket();
}

fn socket() -> Option<&'static UnixDatagram> {
    static SOCKET: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    SOCKET.get_or_init(|| connect().ok()).as_ref()
}

fn connect() -> io::Result<UnixDatagram> {
    let path = env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
    let socket = UnixDatagram::unbound()?;
    // Who does not hear is not to hold us up.
    socket.set_nonblocking(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

/// It serves.
pub(crate) fn ready() {
    say_surely(&[NotifyState::Ready]);
}

/// It accepts no more, and others may listen where it did and have its names.
pub(crate) fn released() {
    say_surely(&[NotifyState::Custom(&format!("{RELEASED}=1"))]);
}

/// What is not to be lost: waits for a moment if the receiver's queue is full.
fn say_surely(state: &[NotifyState<'_>]) {
    if let Some(socket) = socket() {
        let _ = socket.set_nonblocking(false);
        say(state);
        let _ = socket.set_nonblocking(true);
    }
}

/// It needs [`MORE`] time to start; to be repeated before that is over.
pub(crate) fn starting() {
    say(&[extend()]);
}

/// It reads its configuration again; to be followed by [`ready`].
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// It accepts no more, and needs [`MORE`] time for what stands; to be repeated before that is
/// over.
pub(crate) fn stopping() {
    say(&[NotifyState::Stopping, extend()]);
}

fn extend() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(MORE.as_micros()).unwrap_or(u32::MAX))
}

/// How it is, for people, with so many connections.
pub(crate) fn status(text: &str, connections: usize) {
    let connections = format!("{CONNECTIONS}={connections}");
    say(&[NotifyState::Status(text), NotifyState::Custom(&connections)]);
}

/// It ends because of this.
pub fn failed(why: &str) {
    say(&[NotifyState::Status(why)]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Some(socket) = socket() {
        let lines: Vec<_> = state.iter().map(ToString::to_string).collect();
        // Whoever waited may be gone.
        let _ = socket.send(lines.join("\n").as_bytes());
    }
}
