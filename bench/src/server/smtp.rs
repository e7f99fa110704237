//! A minimal SMTP server: accepts every message and discards it.
//!
//! Invariant: the server answers 250 to a message only after its end mark, however TCP segments the
//! message.

use super::responder::NextAction;

const END: &[u8] = b"\r\n.\r\n";

/// An SMTP session.
pub(super) struct SmtpSession {
    /// An incomplete command, or the last bytes of a message, which may start its end mark.
    pending: Vec<u8>,
    in_message: bool,
}

impl SmtpSession {
    /// Starts a session and writes the greeting to `out`.
    pub(super) fn new(out: &mut Vec<u8>) -> Self {
        out.extend(b"220 bench ESMTP\r\n");
        Self { pending: Vec::new(), in_message: false }
    }

    /// Processes commands and messages, and appends the replies to `out`.
    pub(super) fn receive(&mut self, data: &[u8], out: &mut Vec<u8>) -> NextAction {
        self.pending.extend(data);
        loop {
            if self.in_message {
                match self.pending.windows(END.len()).position(|window| window == END) {
                    Some(at) => {
                        self.pending.drain(..at + END.len());
                        self.in_message = false;
                        out.extend(b"250 2.0.0 taken\r\n");
                    }
                    None => {
                        let discarded = self.pending.len().saturating_sub(END.len() - 1);
                        self.pending.drain(..discarded);
                        return NextAction::Continue;
                    }
                }
            } else {
                let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else {
                    return NextAction::Continue;
                };
                let next = self.command(end, out);
                self.pending.drain(..=end);
                if next == NextAction::Close {
                    return next;
                }
            }
        }
    }

    fn command(&mut self, end: usize, out: &mut Vec<u8>) -> NextAction {
        let verb = self.pending[..end].get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match verb.as_slice() {
            b"EHLO" => b"250-bench\r\n250-8BITMIME\r\n250 SIZE\r\n",
            b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => b"250 2.0.0 ok\r\n",
            b"DATA" => {
                self.in_message = true;
                b"354 go on\r\n"
            }
            b"QUIT" => {
                out.extend(b"221 2.0.0 bye\r\n");
                return NextAction::Close;
            }
            _ => b"500 5.5.2 what?\r\n",
        };
        out.extend(reply);
        NextAction::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] = b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\
        a line\r\n..\r\n. \r\n.\r\nQUIT\r\n";

    #[test]
    fn a_session_works_with_any_segmentation() {
        for cut in [1, 2, 3, 7, SESSION.len()] {
            let mut out = Vec::new();
            let mut session = SmtpSession::new(&mut out);
            let mut next = NextAction::Continue;
            for piece in SESSION.chunks(cut) {
                assert_eq!(next, NextAction::Continue);
                next = session.receive(piece, &mut out);
            }
            assert_eq!(next, NextAction::Close);
            let replies = String::from_utf8(out).unwrap();
            let codes: Vec<_> = replies.lines().map(|line| &line[..4]).collect();
            let expected = ["220 ", "250-", "250-", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "];
            assert_eq!(codes, expected, "cut {cut}");
        }
    }
}
