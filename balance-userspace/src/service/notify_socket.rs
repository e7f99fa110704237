//! What the processes of instances say of themselves, in the words of sd_notify(3).
//!
//! Invariant: the kernel says who has said it; what somebody else says is the reader's to pass over.

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

/// Bytes of the longest message that is read whole.
const MESSAGE: usize = 4096;

/// The datagram socket to which instances send their status. Dropping it removes the file.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

/// A message: lines of `NAME=VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notification(Vec<(String, String)>);

impl Notification {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl NotifySocket {
    /// Makes the socket, in place of one that was left behind. The caller holds the lock that goes
    /// with it.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        let socket = private_socket(Type::DGRAM, path)?;
        let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next message, and who has sent it.
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

/// One message; `None` if it cannot be told who has sent it.
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
    async fn what_is_said_comes_with_who_said_it() {
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
