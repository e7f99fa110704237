//! Commands of the shell, and requests and replies on a control socket.
//!
//! Invariant: the formatted form of every parsed value parses to the same value.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::{assert_lines, assert_one_line};
use crate::control::{
    client::{
        command::{self, ParsedCommand},
        command_table,
        render::{self, ReplyFormat},
        rpc::ClientError,
    },
    protocol::{
        InstanceCommand, InstanceReply, Request, SocketReply, SupervisorCommand, SupervisorReply,
        VERSION,
    },
    server::{Incoming, read_request},
};

/// A line of shell commands after one byte for the current group. An instance parses every request
/// that the shell makes of them.
pub fn shell_command(data: &[u8]) {
    let Some((&group, line)) = data.split_first() else { return };
    let line = String::from_utf8_lossy(line);
    let texts: Vec<&str> = command::split(&line).collect();
    assert_eq!(texts.join(";"), line);
    for text in texts {
        match command::parse(text, usize::from(group) % command_table::GROUPS) {
            Ok(ParsedCommand::Request { command, .. }) => assert_request_round_trip(command),
            Ok(ParsedCommand::Group(group)) => assert!(group < command_table::GROUPS),
            Ok(_) => {}
            Err(wrong) => assert_one_line(&wrong.to_string()),
        }
    }
}

fn assert_request_round_trip<C>(command: C)
where
    C: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let request = Request { version: VERSION, command };
    let line = serde_json::to_vec(&request).expect("all fields have a JSON form");
    assert!(!line.contains(&b'\n'));
    assert_eq!(read_request(&line), Ok(Incoming::Command(request.command)));
}

/// A request from a client of the control socket of an instance or a supervisor.
pub fn control_request(data: &[u8]) {
    request_of::<InstanceCommand>(data);
    request_of::<SupervisorCommand>(data);
}

fn request_of<C>(data: &[u8])
where
    C: Serialize + DeserializeOwned + PartialEq + Debug,
{
    match read_request::<C>(data) {
        Ok(Incoming::Hello) => {}
        Ok(Incoming::Command(command)) => assert_request_round_trip(command),
        Err(reply) => {
            match &reply {
                SocketReply::Refused(why) => assert_one_line(why),
                SocketReply::Mismatch { version } => assert_eq!(*version, VERSION),
                other => panic!("{other:?}"),
            }
            assert_reply_round_trip(&reply);
        }
    }
}

fn assert_reply_round_trip<R: Serialize + DeserializeOwned + PartialEq + Debug>(reply: &R) {
    let line = serde_json::to_vec(reply).expect("all fields have a JSON form");
    assert!(!line.contains(&b'\n'));
    assert_eq!(&serde_json::from_slice::<R>(&line).expect("a formatted reply parses"), reply);
}

/// A reply to a client, perhaps from a program of another user. The rendered text consists of whole
/// lines and is safe on a terminal.
pub fn control_reply(data: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<SupervisorReply>(data) {
        assert_reply_round_trip(&reply);
    }
    let Ok(reply) = serde_json::from_slice::<InstanceReply>(data) else { return };
    assert_reply_round_trip(&reply);
    for format in reply_formats() {
        if let Some(rendered) = render::render(&format, &reply, Some("\u{1b}[2J\n")) {
            assert!(!rendered.text.is_empty());
            assert_lines(&rendered.text);
        }
    }
    if let InstanceReply::Refused(why) = reply {
        let mut printed = Vec::new();
        ClientError::Refused(why).report(&mut Vec::new(), &mut printed);
        let printed = String::from_utf8(printed).expect("the error is UTF-8");
        assert_one_line(printed.strip_suffix('\n').expect("the error ends with a line feed"));
    }
}

/// The reply formats of all commands.
fn reply_formats() -> impl Iterator<Item = ReplyFormat> {
    let lines = command_table::COMMANDS.iter().flat_map(|command| {
        // A command takes its own number of arguments only.
        ["", " 0", " 0 1", " 0 1 2", " --json"].map(|words| format!("{}{words}", command.name))
    });
    lines.filter_map(|line| match command::parse(&line, 0) {
        Ok(ParsedCommand::Request { format, .. }) => Some(format),
        _ => None,
    })
}
