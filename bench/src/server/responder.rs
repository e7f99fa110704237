//! The server's answers on one connection.
//!
//! Invariant: no input and output: bytes in, bytes out.

use super::smtp::SmtpSession;
use crate::messages::Service;

/// The server's side of one connection.
pub(super) enum Responder {
    /// Answers every `size` bytes with `size` bytes.
    Echo { size: usize, received: usize },
    /// Answers once, then closes.
    Answer { size: usize, received: usize, id: u8 },
    /// Accepts mail.
    Mail(SmtpSession),
}

/// What happens to a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextAction {
    /// The connection stays open.
    Continue,
    /// The connection is closed after all answers have been sent.
    Close,
}

impl Responder {
    /// Starts a connection and appends the server's greeting, if any, to `out`.
    pub(super) fn new(service: Service, out: &mut Vec<u8>) -> Self {
        match service {
            Service::Echo { size } => Self::Echo { size, received: 0 },
            Service::Answer { size, id } => Self::Answer { size, received: 0, id },
            Service::Mail => Self::Mail(SmtpSession::new(out)),
            Service::Bulk(_) => unreachable!("bulk streams have no responder"),
        }
    }

    /// Processes data from the client and appends the answer, if any, to `out`.
    pub(super) fn receive(&mut self, data: &[u8], out: &mut Vec<u8>) -> NextAction {
        match self {
            Self::Echo { size, received } => {
                *received += data.len();
                let complete = *received - *received % *size;
                *received -= complete;
                out.resize(out.len() + complete, b'e');
                NextAction::Continue
            }
            Self::Answer { size, received, id } => {
                *received += data.len();
                if *received < *size {
                    return NextAction::Continue;
                }
                out.resize(out.len() + *size, *id);
                NextAction::Close
            }
            Self::Mail(session) => session.receive(data, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_answers_complete_requests_only() {
        let mut out = Vec::new();
        let mut responder = Responder::new(Service::Echo { size: 4 }, &mut out);
        let mut answered = |data: &[u8]| {
            out.clear();
            assert_eq!(responder.receive(data, &mut out), NextAction::Continue);
            out.len()
        };
        assert_eq!(answered(b"abc"), 0);
        assert_eq!(answered(b"d"), 4);
        assert_eq!(answered(b"abcdabcda"), 8);
        assert_eq!(answered(b"bcd"), 4);
    }

    #[test]
    fn an_answer_is_given_once_and_identifies_the_server() {
        let mut out = Vec::new();
        let mut responder = Responder::new(Service::Answer { size: 2, id: 7 }, &mut out);
        assert_eq!(responder.receive(b"a", &mut out), NextAction::Continue);
        assert_eq!(responder.receive(b"b", &mut out), NextAction::Close);
        assert_eq!(out, [7, 7]);
    }
}
