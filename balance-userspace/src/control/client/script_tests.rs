//! Lines of commands against a balance that answers as it is told.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::selection::ChannelId;

/// Answers in order, and remembers what it was asked.
struct Scripted {
    replies: VecDeque<Result<InstanceReply, ClientError>>,
    asked: Vec<InstanceCommand>,
    ends: bool,
}

impl Scripted {
    fn new(replies: Vec<Result<InstanceReply, ClientError>>) -> Self {
        Self { replies: replies.into(), asked: Vec::new(), ends: true }
    }
}

impl Transport for Scripted {
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError> {
        self.asked.push(command);
        self.replies.pop_front().unwrap_or(Ok(InstanceReply::Done))
    }

    fn ended(&mut self) -> bool {
        self.ends
    }
}

fn carry_out(
    line: &str,
    master: &mut Scripted,
) -> (Result<ScriptOutcome, ClientError>, usize, String) {
    let (mut group, mut out) = (0, Vec::new());
    let after = run(line, &mut group, master, &mut out);
    (after, group, String::from_utf8(out).unwrap())
}

#[test]
fn commands_follow_each_other_in_the_group_that_was_chosen() {
    let mut master = Scripted::new(Vec::new());
    let (after, group, out) = carry_out("group 2; disable 1; version", &mut master);
    assert!(matches!(after, Ok(ScriptOutcome::Continue { failed: false })));
    assert_eq!(group, 2);
    assert_eq!(master.asked, [InstanceCommand::Disable(ChannelId { group: 2, channel: 1 })]);
    assert_eq!(out, format!("channel 1 disabled\n{}", command_table::VERSION));
}

#[test]
fn nothing_is_done_after_a_command_that_fails() {
    let mut master = Scripted::new(Vec::new());
    let (after, group, out) = carry_out("group 99; disable 1", &mut master);
    assert!(matches!(after, Ok(ScriptOutcome::Continue { failed: true })));
    assert_eq!((group, out.as_str()), (0, "value out of range\n"));
    let mut master = Scripted::new(vec![Ok(InstanceReply::NoSuchChannel)]);
    let (_, _, out) = carry_out("drop 9; disable 1", &mut master);
    assert_eq!(out, "no such channel 9\n");
    assert_eq!(master.asked.len(), 1);
}

#[test]
fn what_is_so_already_is_no_failure() {
    let mut master = Scripted::new(vec![Ok(InstanceReply::Already)]);
    let (after, _, out) = carry_out("disable 0; quit; show", &mut master);
    assert!(matches!(after, Ok(ScriptOutcome::Exit(0))));
    assert_eq!(out, "channel 0 already disabled\n");
}

#[test]
fn kill_says_whether_balance_has_ended() {
    for reply in [Ok(InstanceReply::Done), Err(ClientError::Gone(7))] {
        let (after, _, out) = carry_out("kill; show", &mut Scripted::new(vec![reply]));
        assert!(matches!(after, Ok(ScriptOutcome::Exit(0))));
        assert_eq!(out, "shutdown complete, exiting.\n");
    }
    let mut master = Scripted { ends: false, ..Scripted::new(Vec::new()) };
    let (after, _, out) = carry_out("kill", &mut master);
    assert!(matches!(after, Ok(ScriptOutcome::Exit(69))));
    assert_eq!(out, "shutdown failed.\n");
}

#[test]
fn a_reply_to_something_else_ends_the_client() {
    let (after, _, out) =
        carry_out("show", &mut Scripted::new(vec![Ok(InstanceReply::Connections(1))]));
    assert_eq!((after.unwrap_err().exit_code(), out.as_str()), (65, ""));
}

proptest! {
    #[test]
    fn no_line_and_no_reply_crash_the_client(
        words in prop::collection::vec(r"show|disable|create|assign|maxc|group|drain|drop|kill|hash|mrtg-bytes|; |[0-9.x-]{1,3}|\PC{0,4}", 0..12),
        reply in prop::sample::select(vec![
            InstanceReply::Done, InstanceReply::Already, InstanceReply::NoSuchGroup, InstanceReply::NoSuchChannel, InstanceReply::Connections(2),
            InstanceReply::NotDisabled, InstanceReply::TooManyDrains, InstanceReply::Table(Vec::new()), InstanceReply::InvalidAddress(String::new()),
        ]),
    ) {
        let replies = (0..12).map(|_| Ok(reply.clone())).collect();
        let (_, group, out) = carry_out(&words.join(" "), &mut Scripted::new(replies));
        prop_assert!(group < command_table::GROUPS);
        prop_assert!(out.is_empty() || out.ends_with('\n'));
    }
}
