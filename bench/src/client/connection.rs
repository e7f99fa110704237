//! One connection of the client and the state of its exchange.
//!
//! Invariant: after a write, the next read waits for an event. So no edge that follows the write is
//! lost, and most reads find data.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

use super::plan::{Expect, Step};
use crate::streams::would_block;

/// A connection, connected or connecting.
pub(super) struct Connection {
    /// The socket; nothing else uses it.
    pub(super) socket: TcpStream,
    /// The first byte received, which identifies the server.
    pub(super) first_byte: Option<u8>,
    step: usize,
    sent: usize,
    reply: Reply,
}

/// The part of the expected answer that has arrived.
#[derive(Default)]
struct Reply {
    bytes: usize,
    /// The column of the next byte in a line of an SMTP reply, and whether that line is the last.
    column: usize,
    last: bool,
}

impl Connection {
    /// Starts at the first step of the exchange.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, first_byte: None, step: 0, sent: 0, reply: Reply::default() }
    }

    /// Returns to the first step of the exchange.
    pub(super) fn restart(&mut self) {
        (self.step, self.sent, self.reply) = (0, 0, Reply::default());
    }

    /// Continues the exchange until the socket blocks. Returns true at the end of the exchange.
    pub(super) fn advance(&mut self, steps: &[Step], buffer: &mut [u8]) -> io::Result<bool> {
        while let Some(step) = steps.get(self.step) {
            if self.sent < step.send.len() {
                return self.send(&step.send).map(|()| false);
            }
            let read = match self.socket.read(buffer) {
                Ok(read) => read,
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            if read > 0 && self.first_byte.is_none() {
                self.first_byte = Some(buffer[0]);
            }
            if self.reply.receive(&buffer[..read], step.expect)? {
                (self.step, self.sent, self.reply) = (self.step + 1, 0, Reply::default());
            } else if read < buffer.len() {
                // A short read means that the socket is empty. More data causes another event.
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        while self.sent < data.len() {
            match self.socket.write(&data[self.sent..]) {
                Ok(more) => self.sent += more,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Reply {
    /// Processes data; empty data is the end of the stream. Returns true if the answer is complete.
    fn receive(&mut self, data: &[u8], expect: Expect) -> io::Result<bool> {
        let error = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        match (expect, data) {
            (Expect::Eof, []) => Ok(true),
            (Expect::Eof, _) => error("data after the end of the answer"),
            (_, []) => error("connection closed in the middle of an answer"),
            (Expect::Bytes(size), _) => {
                self.bytes += data.len();
                if self.bytes > size { error("answer too long") } else { Ok(self.bytes == size) }
            }
            (Expect::SmtpReply, _) => {
                for byte in data {
                    match (self.column, *byte) {
                        (0, b'4' | b'5') => return error("server rejected a mail command"),
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

    fn complete(pieces: &[&[u8]], expect: Expect) -> Vec<Option<bool>> {
        let mut reply = Reply::default();
        pieces.iter().map(|piece| reply.receive(piece, expect).ok()).collect()
    }

    #[test]
    fn an_answer_of_fixed_size_ends_with_its_last_byte() {
        assert_eq!(complete(&[b"ab", b"c"], Expect::Bytes(3)), [Some(false), Some(true)]);
        assert_eq!(complete(&[b"abcd"], Expect::Bytes(3)), [None]);
        assert_eq!(complete(&[b"ab", b""], Expect::Bytes(3)), [Some(false), None]);
    }

    #[test]
    fn a_mail_reply_ends_with_its_last_line() {
        let pieces: [&[u8]; 3] = [b"250-a\r\n25", b"0-b\r\n250 ", b"ok\r\n"];
        assert_eq!(complete(&pieces, Expect::SmtpReply), [Some(false), Some(false), Some(true)]);
        assert_eq!(complete(&[b"550 no\r\n"], Expect::SmtpReply), [None]);
    }

    #[test]
    fn data_where_the_end_is_expected_is_an_error() {
        assert_eq!(complete(&[b""], Expect::Eof), [Some(true)]);
        assert_eq!(complete(&[b"x"], Expect::Eof), [None]);
    }
}
