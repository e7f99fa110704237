//! One end of a cable: a device in a namespace, whose frames are read and written here.
//!
//! Invariant: frames are what a real card would see, with all checksums and no longer than one
//! packet, because the device has no offloads.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    os::unix::fs::OpenOptionsExt as _,
};

use nix::libc;

use super::Namespace;

pub(super) const DEVICE: &str = "/dev/net/tun";

/// The device, which goes away with this.
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
    /// Makes a device of that name there.
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
        // SAFETY: the kernel reads and writes a `struct ifreq`, which this is laid out as.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result == 0 { Ok(Self(file)) } else { Err(io::Error::last_os_error()) }
    }

    /// The next frame that leaves by it, if there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        match (&self.0).read(buffer) {
            Ok(len) => Some(len),
            // As any other error, one that a frame does not survive.
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(0),
            Err(_) => None,
        }
    }

    /// Lets a frame arrive by it. One that it does not take is lost, as on a cable.
    pub(super) fn write(&self, frame: &[u8]) {
        let _ = (&self.0).write(frame);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
