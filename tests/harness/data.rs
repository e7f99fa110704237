//! Seeded data, checked by hash: neither side of a transfer has to hold it in memory.

use std::{
    io::{self, Read, Write},
    ops::Range,
};

/// Bytes handed to one system call unless a test asks for another size.
const CHUNK: usize = 64 << 10;

/// Length and hash of a stream of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Number of bytes.
    pub len: u64,
    hash: blake3::Hash,
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {}", self.len, &self.hash.to_hex()[..16])
    }
}

/// The bytes that a seed stands for.
#[derive(Clone, Debug)]
pub struct Pattern {
    random: fastrand::Rng,
    hasher: blake3::Hasher,
    left: u64,
    len: u64,
}

impl Pattern {
    /// `len` bytes of the given seed.
    pub fn new(seed: u64, len: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            hasher: blake3::Hasher::new(),
            left: len,
            len,
        }
    }

    /// Puts the next bytes into `buffer`; fewer than it holds at the end only.
    fn next(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.left.min(buffer.len() as u64) as usize;
        let part = &mut buffer[..len];
        self.random.fill(part);
        self.hasher.update(part);
        self.left -= len as u64;
        len
    }
}

/// Sends all of a pattern in writes of lengths taken from `writes`; `progress` hears the length
/// of each as it is done.
pub fn send(
    mut stream: impl Write,
    mut pattern: Pattern,
    writes: Range<usize>,
    mut progress: impl FnMut(usize),
) -> io::Result<Digest> {
    let mut lengths = fastrand::Rng::with_seed(pattern.len);
    let mut buffer = vec![0; writes.end.max(2) - 1];
    while pattern.left > 0 {
        let length = lengths.usize(writes.clone());
        let filled = pattern.next(&mut buffer[..length]);
        let mut rest = &buffer[..filled];
        while !rest.is_empty() {
            let written = stream.write(rest)?;
            progress(written);
            rest = &rest[written..];
        }
    }
    Ok(Digest { len: pattern.len, hash: pattern.hasher.finalize() })
}

/// Takes bytes in and hashes them.
#[derive(Debug)]
pub struct Receiver {
    hasher: blake3::Hasher,
    len: u64,
    buffer: Vec<u8>,
}

impl Receiver {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), len: 0, buffer: vec![0; CHUNK] }
    }

    /// Reads until `len` bytes have come in all, or the stream has ended.
    pub fn read_up_to(&mut self, mut stream: impl Read, len: u64) -> io::Result<()> {
        while self.len < len {
            let room = (len - self.len).min(CHUNK as u64) as usize;
            match stream.read(&mut self.buffer[..room]) {
                Ok(0) => break,
                Ok(read) => {
                    self.hasher.update(&self.buffer[..read]);
                    self.len += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What has come so far.
    pub fn digest(&self) -> Digest {
        Digest { len: self.len, hash: self.hasher.finalize() }
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads to the end of the stream.
pub fn receive_all(stream: impl Read) -> io::Result<Digest> {
    receive_exactly(stream, u64::MAX)
}

/// Reads `len` bytes and not one more; fewer if the stream ends.
pub fn receive_exactly(stream: impl Read, len: u64) -> io::Result<Digest> {
    let mut receiver = Receiver::new();
    receiver.read_up_to(stream, len)?;
    Ok(receiver.digest())
}
