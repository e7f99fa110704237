//! What the server says on one connection.
//!
//! Invariant: free of input and output: bytes in, bytes out.

use super::mail::Mail;
use crate::job::Service;

/// The server's side of one connection.
pub(super) enum Talk {
    /// Answers every `size` bytes with as many.
    Echo { size: usize, heard: usize },
    /// Answers once and ends.
    Answer { size: usize, heard: usize, id: u8 },
    /// Takes mail.
    Mail(Mail),
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It does.
    Stay,
    /// It is closed once all has been said.
    Close,
}

impl Talk {
    /// A new connection; what the server says first is put into `out`.
    pub(super) fn begin(service: Service, out: &mut Vec<u8>) -> Self {
        match service {
            Service::Echo { size } => Self::Echo { size, heard: 0 },
            Service::Answer { size, id } => Self::Answer { size, heard: 0, id },
            Service::Mail => Self::Mail(Mail::begin(out)),
            Service::Bulk(_) => unreachable!("bulk is no dialogue"),
        }
    }

    /// Takes what the client said and puts the answer, if any, into `out`.
    pub(super) fn hear(&mut self, data: &[u8], out: &mut Vec<u8>) -> Then {
        match self {
            Self::Echo { size, heard } => {
                *heard += data.len();
                let whole = *heard - *heard % *size;
                *heard -= whole;
                out.resize(out.len() + whole, b'e');
                Then::Stay
            }
            Self::Answer { size, heard, id } => {
                *heard += data.len();
                if *heard < *size {
                    return Then::Stay;
                }
                out.resize(out.len() + *size, *id);
                Then::Close
            }
            Self::Mail(mail) => mail.hear(data, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_answers_whole_requests_only() {
        let mut out = Vec::new();
        let mut talk = Talk::begin(Service::Echo { size: 4 }, &mut out);
        let mut answered = |data: &[u8]| {
            out.clear();
            assert_eq!(talk.hear(data, &mut out), Then::Stay);
            out.len()
        };
        assert_eq!(answered(b"abc"), 0);
        assert_eq!(answered(b"d"), 4);
        assert_eq!(answered(b"abcdabcda"), 8);
        assert_eq!(answered(b"bcd"), 4);
    }

    #[test]
    fn an_answer_is_given_once_and_tells_the_server() {
        let mut out = Vec::new();
        let mut talk = Talk::begin(Service::Answer { size: 2, id: 7 }, &mut out);
        assert_eq!(talk.hear(b"a", &mut out), Then::Stay);
        assert_eq!(talk.hear(b"b", &mut out), Then::Close);
        assert_eq!(out, [7, 7]);
    }
}
