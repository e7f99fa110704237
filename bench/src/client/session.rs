//! One connection of the client and how far its dialogue is.
//!
//! Invariant: after something was said, the next read waits for an event: edges that come
//! later than the write are never lost, and most reads then find what they look for.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

use super::plan::{Hear, Step};
use crate::streams::would_block;

/// A connection, connected or connecting.
pub(super) struct Session {
    /// Ours alone.
    pub(super) socket: TcpStream,
    /// The first byte that was heard: tells the server.
    pub(super) first: Option<u8>,
    step: usize,
    said: usize,
    heard: Heard,
}

/// What was heard of the answer that is waited for.
#[derive(Default)]
struct Heard {
    bytes: usize,
    /// Where in a line of an SMTP reply the next byte belongs, and whether it is the last line.
    column: usize,
    last: bool,
}

impl Session {
    /// At the beginning of its dialogue.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, first: None, step: 0, said: 0, heard: Heard::default() }
    }

    /// Goes back to the beginning.
    pub(super) fn restart(&mut self) {
        (self.step, self.said, self.heard) = (0, 0, Heard::default());
    }

    /// Goes on as far as it can. True at the end of the dialogue.
    pub(super) fn advance(&mut self, steps: &[Step], buffer: &mut [u8]) -> io::Result<bool> {
        while let Some(step) = steps.get(self.step) {
            if self.said < step.say.len() {
                return self.say(&step.say).map(|()| false);
            }
            let read = match self.socket.read(buffer) {
                Ok(read) => read,
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            if read > 0 && self.first.is_none() {
                self.first = Some(buffer[0]);
            }
            if self.heard.take(&buffer[..read], step.hear)? {
                (self.step, self.said, self.heard) = (self.step + 1, 0, Heard::default());
            } else if read < buffer.len() {
                // A short read means that the socket is empty: more brings another event.
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn say(&mut self, data: &[u8]) -> io::Result<()> {
        while self.said < data.len() {
            match self.socket.write(&data[self.said..]) {
                Ok(more) => self.said += more,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Heard {
    /// Takes what was read, nothing at the end of the stream. True if the answer is complete.
    fn take(&mut self, data: &[u8], hear: Hear) -> io::Result<bool> {
        let error = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        match (hear, data) {
            (Hear::End, []) => Ok(true),
            (Hear::End, _) => error("more than the whole answer"),
            (_, []) => error("the connection ended before the answer did"),
            (Hear::Bytes(size), _) => {
                self.bytes += data.len();
                if self.bytes > size {
                    error("more than the answer")
                } else {
                    Ok(self.bytes == size)
                }
            }
            (Hear::Reply, _) => {
                for byte in data {
                    match (self.column, *byte) {
                        (0, b'4' | b'5') => return error("a mail command was refused"),
                        (3, separator) => self.last = separator != b'-',
                        (_, b'\n') if self.last => return Ok(true),
                        _ => {}
                    }
                    self.column = if *byte == b'\n' { 0 } else { self.column + 1 };
                }
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(pieces: &[&[u8]], hear: Hear) -> Vec<Option<bool>> {
        let mut heard = Heard::default();
        pieces.iter().map(|piece| heard.take(piece, hear).ok()).collect()
    }

    #[test]
    fn an_answer_of_bytes_is_complete_with_the_last_and_wrong_beyond() {
        assert_eq!(complete(&[b"ab", b"c"], Hear::Bytes(3)), [Some(false), Some(true)]);
        assert_eq!(complete(&[b"abcd"], Hear::Bytes(3)), [None]);
        assert_eq!(complete(&[b"ab", b""], Hear::Bytes(3)), [Some(false), None]);
    }

    #[test]
    fn a_reply_ends_with_its_last_line() {
        let pieces: [&[u8]; 3] = [b"250-a\r\n25", b"0-b\r\n250 ", b"ok\r\n"];
        assert_eq!(complete(&pieces, Hear::Reply), [Some(false), Some(false), Some(true)]);
        assert_eq!(complete(&[b"550 no\r\n"], Hear::Reply), [None]);
    }

    #[test]
    fn the_end_is_the_end() {
        assert_eq!(complete(&[b""], Hear::End), [Some(true)]);
        assert_eq!(complete(&[b"x"], Hear::End), [None]);
    }
}
