//! One end of a cable: a TAP device in a namespace.
//!
//! Invariant: the device has no offloads, so each frame has valid checksums and at most one packet,
//! as on a real network card.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    os::unix::fs::OpenOptionsExt as _,
};

use nix::libc;

use super::Namespace;

pub(super) const DEVICE: &str = "/dev/net/tun";

/// A TAP device; dropping it removes the device.
#[derive(Debug)]
pub(super) struct Tap(File);

/// `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    /// The rest of the union.
    _rest: [u8; 22],
}

impl Tap {
    /// Creates a device with that name in a namespace.
    pub(super) fn new(address: &Namespace, name: &str) -> Self {
        address
            .enter(|| Self::open(name))
            .unwrap_or_else(|error| panic!("the device {name}: {error}"))
    }

    fn open(name: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(DEVICE)?;
        let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags, _rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: `Request` has the layout of `struct ifreq`, which the kernel reads and writes.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result == 0 { Ok(Self(file)) } else { Err(io::Error::last_os_error()) }
    }

    /// The next frame that the host sends, if there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        match (&self.0).read(buffer) {
            Ok(len) => Some(len),
            // An interrupted read loses at most one frame, like any other error.
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(0),
            Err(_) => None,
        }
    }

    /// Delivers a frame to the host. A frame that the device rejects is lost, as on a cable.
    pub(super) fn write(&self, frame: &[u8]) {
        let _ = (&self.0).write(frame);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
