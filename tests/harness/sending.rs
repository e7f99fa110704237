//! A sender on its own thread, whose progress the test observes.
//!
//! Invariant: progress counts bytes that the socket has accepted.

use std::{
    net::{Shutdown, TcpStream},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{Digest, Pattern, TIMEOUT, WHOLE_CHUNKS, eventually, send};

/// A sender without progress for this many milliseconds has stopped.
const STALL_MILLISECONDS: u64 = 1500;

/// A thread that sends seeded data and then ends its direction.
#[derive(Debug)]
pub struct Sending {
    progress: Arc<Progress>,
    len: u64,
    thread: JoinHandle<Digest>,
}

/// Number of bytes sent, and the time of the last progress.
#[derive(Debug)]
struct Progress {
    bytes: AtomicU64,
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Progress {
    fn count(&self, written: usize) {
        self.bytes.fetch_add(written as u64, Ordering::Relaxed);
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).expect("a test is short")
    }

    fn is_still(&self) -> bool {
        self.now().saturating_sub(self.last.load(Ordering::Relaxed)) >= STALL_MILLISECONDS
    }
}

impl Sending {
    /// Sends `len` bytes.
    pub fn start(stream: &TcpStream, len: u64) -> Self {
        Self::start_with(stream, len, WHOLE_CHUNKS, |_| {})
    }

    /// Sends `len` bytes, each write of a length drawn from `writes`; calls `pause` after each
    /// write.
    pub fn start_with(
        stream: &TcpStream,
        len: u64,
        writes: Range<usize>,
        mut pause: impl FnMut(usize) + Send + 'static,
    ) -> Self {
        let stream = stream.try_clone().expect("dup");
        let progress = Arc::new(Progress {
            bytes: AtomicU64::new(0),
            start: Instant::now(),
            last: AtomicU64::new(0),
        });
        let shared = progress.clone();
        let thread = thread::spawn(move || {
            let count = |written| {
                shared.count(written);
                pause(written);
            };
            let sent = send(&stream, Pattern::new(len, len), writes, count).expect("sending");
            stream.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        Self { progress, len, thread }
    }

    /// Bytes that the socket has accepted.
    pub fn so_far(&self) -> u64 {
        self.progress.bytes.load(Ordering::Relaxed)
    }

    /// Waits until the sender stops or has sent all; returns the number of bytes sent.
    pub fn wait_until_still(&self) -> u64 {
        eventually(TIMEOUT, "the sender stops", || {
            let still = self.progress.is_still();
            match self.so_far() {
                now if still || now == self.len => Ok(now),
                now => Err(format!("{now} bytes sent")),
            }
        })
    }

    /// Waits until all is sent; returns its length and hash.
    pub fn finish(self) -> Digest {
        self.thread.join().expect("the sender")
    }
}
