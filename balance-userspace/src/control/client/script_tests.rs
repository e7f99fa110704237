//! Tests of command lines, with prepared replies.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::selection::ChannelId;

/// Returns prepared replies in order, and records the commands.
struct ScriptedTransport {
    replies: VecDeque<Result<InstanceReply, ClientError>>,
    commands: Vec<InstanceCommand>,
    ends: bool,
}

impl ScriptedTransport {
    fn new(replies: Vec<Result<InstanceReply, ClientError>>) -> Self {
        Self { replies: replies.into(), commands: Vec::new(), ends: true }
    }
}

impl Transport for ScriptedTransport {
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError> {
        self.commands.push(command);
        self.replies.pop_front().unwrap_or(Ok(InstanceReply::Done))
    }

    fn instance_name(&self) -> Option<&str> {
        Some("smtp")
    }

    fn wait_until_ended(&mut self) -> bool {
        self.ends
    }
}

fn run_script(
    line: &str,
    transport: &mut ScriptedTransport,
) -> (Result<ScriptOutcome, ClientError>, usize, String) {
    let (mut group, mut out) = (0, Vec::new());
    let outcome = run(line, &mut group, transport, &mut out, &mut Vec::new());
    (outcome, group, String::from_utf8(out).unwrap())
}

#[test]
fn commands_run_in_order_in_the_chosen_group() {
    let mut transport = ScriptedTransport::new(Vec::new());
    let (outcome, group, out) = run_script("group 2; disable 1; version", &mut transport);
    assert!(matches!(outcome, Ok(ScriptOutcome::Continue { code: 0 })));
    assert_eq!(group, 2);
    assert_eq!(
        transport.commands,
        [InstanceCommand::Disable(ChannelId { group: 2, channel: 1 }.into())]
    );
    assert_eq!(out, format!("channel 1 disabled\n{}", command_table::VERSION));
}

#[test]
fn a_failed_command_ends_the_line() {
    let mut transport = ScriptedTransport::new(Vec::new());
    let (outcome, group, out) = run_script("group 99; disable 1", &mut transport);
    assert!(matches!(outcome, Ok(ScriptOutcome::Continue { code: 1 })));
    assert_eq!((group, out.as_str()), (0, "value out of range\n"));
    let mut transport = ScriptedTransport::new(vec![Ok(InstanceReply::NoSuchChannel)]);
    let (_, _, out) = run_script("drop 9; disable 1", &mut transport);
    assert_eq!(out, "no such channel 9\n");
    assert_eq!(transport.commands.len(), 1);
}

#[test]
fn a_command_without_an_effect_has_not_failed() {
    let mut transport = ScriptedTransport::new(vec![Ok(InstanceReply::Already)]);
    let (outcome, _, out) = run_script("disable 0; quit; show", &mut transport);
    assert!(matches!(outcome, Ok(ScriptOutcome::Exit(0))));
    assert_eq!(out, "channel 0 already disabled\n");
}

#[test]
fn kill_says_whether_balance_has_ended() {
    for reply in [Ok(InstanceReply::Done), Err(ClientError::Gone(7))] {
        let (outcome, _, out) = run_script("kill; show", &mut ScriptedTransport::new(vec![reply]));
        assert!(matches!(outcome, Ok(ScriptOutcome::Exit(0))));
        assert_eq!(out, "shutdown complete, exiting.\n");
    }
    let mut transport = ScriptedTransport { ends: false, ..ScriptedTransport::new(Vec::new()) };
    let (outcome, _, out) = run_script("kill", &mut transport);
    assert!(matches!(outcome, Ok(ScriptOutcome::Exit(69))));
    assert_eq!(out, "shutdown failed.\n");
}

#[test]
fn a_reply_to_another_command_ends_the_client() {
    let (outcome, _, out) =
        run_script("show", &mut ScriptedTransport::new(vec![Ok(InstanceReply::Connections(1))]));
    assert_eq!((outcome.unwrap_err().exit_code(), out.as_str()), (65, ""));
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
        let (_, group, out) = run_script(&words.join(" "), &mut ScriptedTransport::new(replies));
        prop_assert!(group < command_table::GROUPS);
        prop_assert!(out.is_empty() || out.ends_with('\n'));
    }
}
