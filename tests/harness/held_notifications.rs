//! Holds back the notifications that instances send to their supervisor.
//!
//! Invariant: each message is passed on once, in order, and with the credentials of its sender.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, sendmsg,
        setsockopt, sockopt::PassCred,
    },
};

use crate::{TIMEOUT, eventually};

/// Maximum length of a message in bytes.
const MESSAGE: usize = 4096;

/// Read timeout of the socket.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Replaces the notify socket of a supervisor for processes that start from now on.
#[derive(Debug)]
pub struct HeldNotifications {
    socket: UnixDatagram,
    /// The path to which the supervisor's socket was moved.
    moved: PathBuf,
    held: Vec<(UnixCredentials, Vec<u8>)>,
}

impl HeldNotifications {
    /// Replaces the notify socket in a run directory.
    pub fn of(run_dir: &Path) -> Self {
        let is_inbox = |path: &PathBuf| path.extension().is_some_and(|end| end == "in");
        let entries = fs::read_dir(run_dir).expect("the run directory").flatten();
        let path = entries.map(|entry| entry.path()).find(is_inbox).expect("an inbox");
        let moved = path.with_extension("moved");
        fs::rename(&path, &moved).expect("moving the inbox");
        let socket = UnixDatagram::bind(&path).expect("an inbox");
        socket.set_read_timeout(Some(POLL_INTERVAL)).expect("a timeout");
        setsockopt(&socket, PassCred, &true).expect("SO_PASSCRED");
        Self { socket, moved, held: Vec::new() }
    }

    /// Holds messages until one reports readiness (`READY=1`); returns the process id of its
    /// sender.
    pub fn hold_until_ready(&mut self) -> i32 {
        eventually(TIMEOUT, "a process serves", || self.hold_next().ok_or("none does".to_owned()))
    }

    fn hold_next(&mut self) -> Option<i32> {
        let (who, text) = self.receive()?;
        let is_ready = String::from_utf8_lossy(&text).lines().any(|line| line == "READY=1");
        self.held.push((who, text));
        is_ready.then(|| who.pid())
    }

    /// Passes on the held messages, and the next one if it arrives soon.
    pub fn pass_on(&mut self) {
        let next = self.receive();
        for (who, text) in self.held.drain(..).chain(next) {
            let to = UnixAddr::new(&self.moved).expect("an address");
            let parts = [IoSlice::new(&text)];
            let control = [ControlMessage::ScmCredentials(&who)];
            let sending =
                sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to));
            match sending {
                // The sender or the supervisor may have exited.
                Ok(_) | Err(Errno::ESRCH | Errno::ECONNREFUSED) => {}
                Err(error) => panic!("sendmsg: {error}"),
            }
        }
    }

    fn receive(&self) -> Option<(UnixCredentials, Vec<u8>)> {
        let mut bytes = [0; MESSAGE];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = cmsg_space!(UnixCredentials);
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::empty()) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Err(error) => panic!("recvmsg: {}", io::Error::from(error)),
        };
        let who = message.cmsgs().expect("control messages").find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(who) => Some(who),
            _ => None,
        });
        let len = message.bytes;
        Some((who.expect("credentials"), bytes[..len].to_vec()))
    }
}
