//! Loads as dialogues: what to send and what to expect for it, step by step.
//!
//! Invariant: a step is over when all it has to expect was heard, and nothing is said before.

use std::time::Duration;

use crate::messages::Load;

/// What every connection of a load does.
pub(super) struct Plan {
    /// The dialogue, begun once the connection is up.
    pub(super) steps: Vec<Step>,
    /// Connections at a time.
    pub(super) connections: usize,
    /// What follows on the dialogue.
    pub(super) after: AfterExchange,
    /// Tell every now and then how it goes; errors are part of the game.
    pub(super) reports_progress: bool,
}

/// Say something, expect something.
pub(super) struct Step {
    /// May be empty.
    pub(super) send: Vec<u8>,
    /// What the answer is.
    pub(super) expect: Expect,
}

/// When an answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// With so many bytes.
    Bytes(usize),
    /// With the last line of an SMTP reply that is no refusal.
    SmtpReply,
    /// With the end of the stream.
    Eof,
}

/// What follows on a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterExchange {
    /// The same again on the same connection.
    Repeat,
    /// The same on a new connection, after a pause.
    Reconnect(Duration),
    /// Nothing.
    Hold,
}

impl Plan {
    /// The plan for any load but the bulk ones.
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
            Load::Bulk { .. } | Load::Stall { .. } => unreachable!("bulk is no dialogue"),
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
    fn a_message_has_its_size_and_ends_once() {
        let Plan { steps, .. } = Plan::of(&Load::Mail { connections: 1, message: 10_240 });
        let message = &steps[5].send;
        assert_eq!(message.len(), 10_240 + ".\r\n".len());
        let ends = message.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        assert_eq!(ends, 1);
        assert!(message.ends_with(b"\r\n.\r\n"));
        assert_eq!(steps.last().unwrap().expect, Expect::Eof);
    }
}
