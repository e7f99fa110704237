//! Seeded test data, checked by hash.
//!
//! Invariant: neither end of a transfer holds the data in memory.

use std::{
    io::{self, Read, Write},
    ops::Range,
};

/// Bytes of one read.
const CHUNK: usize = 64 << 10;

/// Length and hash of a byte stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Length in bytes.
    pub len: u64,
    hash: blake3::Hash,
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {}", self.len, &self.hash.to_hex()[..16])
    }
}

/// The byte stream generated from a seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    random: fastrand::Rng,
    hasher: blake3::Hasher,
    left: u64,
    len: u64,
}

impl Pattern {
    /// A stream of `len` bytes generated from `seed`.
    pub fn new(seed: u64, len: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            hasher: blake3::Hasher::new(),
            left: len,
            len,
        }
    }

    /// Fills `buffer` with the next bytes; returns how many, fewer than its length only at the end.
    fn next(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.left.min(buffer.len() as u64) as usize;
        let part = &mut buffer[..len];
        self.random.fill(part);
        self.hasher.update(part);
        self.left -= len as u64;
        len
    }
}

/// Writes a whole pattern, each write of a length drawn from `writes`. Calls `progress` with the
/// length of each write.
///
/// # Errors
/// The first error of a write.
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

/// Reads a stream and hashes it.
#[derive(Debug)]
pub struct Receiver {
    hasher: blake3::Hasher,
    len: u64,
    buffer: Vec<u8>,
}

impl Receiver {
    /// A receiver that has read nothing yet.
    pub fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), len: 0, buffer: vec![0; CHUNK] }
    }

    /// Reads until `len` bytes have arrived in total, or until the end of the stream.
    ///
    /// # Errors
    /// The first error of a read.
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

    /// Length and hash of the bytes so far.
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
///
/// # Errors
/// The first error of a read.
pub fn receive_all(stream: impl Read) -> io::Result<Digest> {
    receive_exactly(stream, u64::MAX)
}

/// Reads exactly `len` bytes, or fewer if the stream ends before.
///
/// # Errors
/// The first error of a read.
pub fn receive_exactly(stream: impl Read, len: u64) -> io::Result<Digest> {
    let mut receiver = Receiver::new();
    receiver.read_up_to(stream, len)?;
    Ok(receiver.digest())
}
