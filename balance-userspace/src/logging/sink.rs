//! The sinks of the writer threads: a descriptor, or syslog.
//!
//! Invariant: after an error nothing more of the piece is written. Both sinks may wait for their
//! reader without limit.

use std::{io, os::fd::AsFd, str};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    syslog::{Facility, Priority, Severity, syslog},
    unistd::write as write_some,
};

/// Writes all bytes. Bypasses the buffers and locks of the standard library, because the end of the
/// process would wait for those.
pub(super) fn write(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_some(&to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            // Another process has made the descriptor non-blocking.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Passes a line that begins with its priority, `<N>`, to syslog(3).
pub(super) fn to_syslog(line: &[u8]) -> io::Result<()> {
    let (severity, text) = split(line);
    let text = str::from_utf8(text).map_err(io::Error::other)?;
    Ok(syslog(Priority::new(severity, Facility::LOG_DAEMON), text.trim_end())?)
}

fn split(line: &[u8]) -> (Severity, &[u8]) {
    match line {
        [b'<', n, b'>', text @ ..] => (severity(*n), text),
        _ => (Severity::LOG_NOTICE, line),
    }
}

fn severity(digit: u8) -> Severity {
    match digit {
        b'3' => Severity::LOG_ERR,
        b'4' => Severity::LOG_WARNING,
        b'6' => Severity::LOG_INFO,
        b'7' => Severity::LOG_DEBUG,
        _ => Severity::LOG_NOTICE,
    }
}
