//! The exchange of a load: what the client sends and which answer it expects, step by step.
//!
//! Invariant: a step ends when its whole answer has arrived, and nothing is sent before that.

use std::time::Duration;

use crate::messages::Load;

/// What every connection of a load does.
pub(super) struct Plan {
    /// The exchange. It starts when the connection is up.
    pub(super) steps: Vec<Step>,
    /// Number of concurrent connections.
    pub(super) connections: usize,
    /// What a connection does after the exchange.
    pub(super) after: AfterExchange,
    /// The client reports its progress at intervals, and errors do not end the run.
    pub(super) reports_progress: bool,
}

/// One message to send and the answer to expect.
pub(super) struct Step {
    /// The message; may be empty.
    pub(super) send: Vec<u8>,
    /// The expected answer.
    pub(super) expect: Expect,
}

/// When an answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// After this number of bytes.
    Bytes(usize),
    /// After the last line of a positive SMTP reply.
    SmtpReply,
    /// At the end of the stream.
    Eof,
}

/// What a connection does after the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterExchange {
    /// Repeats the exchange.
    Repeat,
    /// Closes, and a new connection starts the exchange after this pause.
    Reconnect(Duration),
    /// Stays open and idle.
    Hold,
}

impl Plan {
    /// Makes the plan of any load except the bulk loads.
    pub(super) fn of(load: &Load) -> Self {
        let after = match load {
            Load::Requests { .. } => AfterExchange::Repeat,
            Load::Hold { .. } => AfterExchange::Hold,
            Load::Churn { pause, .. } => AfterExchange::Reconnect(*pause),
            _ => AfterExchange::Reconnect(Duration::ZERO),
        };
        let (connections, steps) = match *load {
            Load::Requests { connections, size } | Load::Hold { connections, size } => {
                (connections, vec![request(size)])
            }
            Load::Short { connections, size } | Load::Churn { connections, size, .. } => {
                (connections, vec![request(size), Step { send: Vec::new(), expect: Expect::Eof }])
            }
            Load::Mail { connections, message } => (connections, mail(message)),
            Load::Bulk { .. } | Load::Stall { .. } => unreachable!("bulk streams have no exchange"),
        };
        Self { steps, connections, after, reports_progress: matches!(load, Load::Churn { .. }) }
    }
}

fn request(size: usize) -> Step {
    Step { send: vec![b'r'; size], expect: Expect::Bytes(size) }
}

fn mail(size: usize) -> Vec<Step> {
    let line = [b"m".repeat(76).as_slice(), b"\r\n"].concat();
    let mut message: Vec<u8> = line.into_iter().cycle().take(size.saturating_sub(2)).collect();
    message.extend(b"\r\n.\r\n");
    let mut steps = vec![Step { send: Vec::new(), expect: Expect::SmtpReply }];
    let commands = [
        b"EHLO bench\r\n".as_slice(),
        b"MAIL FROM:<sender@bench.invalid>\r\n",
        b"RCPT TO:<recipient@bench.invalid>\r\n",
        b"DATA\r\n",
        &message,
        b"QUIT\r\n",
    ];
    steps.extend(commands.map(|command| Step { send: command.into(), expect: Expect::SmtpReply }));
    steps.push(Step { send: Vec::new(), expect: Expect::Eof });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_requested_size_and_one_end_mark() {
        let Plan { steps, .. } = Plan::of(&Load::Mail { connections: 1, message: 10_240 });
        let message = &steps[5].send;
        assert_eq!(message.len(), 10_240 + ".\r\n".len());
        let ends = message.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        assert_eq!(ends, 1);
        assert!(message.ends_with(b"\r\n.\r\n"));
        assert_eq!(steps.last().unwrap().expect, Expect::Eof);
    }
}
