//! The socket to which instances send their status in the format of sd_notify(3).
//!
//! Invariant: the kernel provides the pid of the sender (SCM_CREDENTIALS). The supervisor ignores
//! notifications of unknown pids.

use std::{
    fs, io,
    io::IoSliceMut,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
    },
};
use socket2::Type;
use tokio::{io::Interest, net::UnixDatagram};

use crate::control::instance_files::private_socket;

/// Maximum length of a notification in bytes; the rest is cut off.
const MESSAGE: usize = 4096;

/// The datagram socket to which instances send their status. Dropping it removes the file.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

/// A notification: lines of `NAME=VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notification(Vec<(String, String)>);

impl Notification {
    /// Parses the lines; ignores lines without `=`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns the first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl NotifySocket {
    /// Binds the socket, and replaces a stale one. The caller holds the lock of the supervisor.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        let socket = private_socket(Type::DGRAM, path)?;
        let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next notification. Also returns the pid of its sender.
    pub(super) async fn next(&self) -> io::Result<(u32, Notification)> {
        loop {
            self.socket.readable().await?;
            let received = self.socket.try_io(Interest::READABLE, || receive(&self.socket));
            match received {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Receives one notification; `None` if the pid of its sender is unknown.
fn receive(socket: &UnixDatagram) -> io::Result<Option<(u32, Notification)>> {
    let mut bytes = [0; MESSAGE];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!(UnixCredentials);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let sender = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(who) => u32::try_from(who.pid()).ok(),
        _ => None,
    });
    let len = message.bytes;
    Ok(sender.map(|pid| (pid, Notification::parse(&String::from_utf8_lossy(&bytes[..len])))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notification_comes_with_the_pid_of_its_sender() {
        let dir = tempfile::tempdir().unwrap();
        let notify_socket = NotifySocket::bind(&dir.path().join("notify_socket")).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nSTATUS=a=b\nnonsense\n", notify_socket.path()).await.unwrap();
        let (pid, notification) = notify_socket.next().await.unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(notification.get("READY"), Some("1"));
        assert_eq!(notification.get("STATUS"), Some("a=b"));
        assert_eq!(notification.get("nonsense"), None);
    }
}
