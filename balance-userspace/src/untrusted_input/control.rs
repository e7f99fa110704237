//! What is typed into the shell, and what goes over a control socket.

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
    protocol::{InstanceCommand, InstanceReply, Request, ServerReply, VERSION},
    server::{Incoming, read_request},
};

/// A line of commands, behind a byte that says in which group: the running balance understands what
/// is made of it.
pub fn shell_command(data: &[u8]) {
    let Some((&group, line)) = data.split_first() else { return };
    let line = String::from_utf8_lossy(line);
    let texts: Vec<&str> = command::split(&line).collect();
    assert_eq!(texts.join(";"), line.strip_suffix(';').map_or(&*line, |_| &line));
    for text in texts {
        match command::parse(text, usize::from(group) % command_table::GROUPS) {
            Ok(ParsedCommand::Request { command, .. }) => assert_understood(command),
            Ok(ParsedCommand::Group(group)) => assert!(group < command_table::GROUPS),
            Ok(_) => {}
            Err(wrong) => assert_one_line(&wrong.to_string()),
        }
    }
}

fn assert_understood(command: InstanceCommand) {
    let request = Request { version: VERSION, command };
    let line = serde_json::to_vec(&request).expect("nothing that JSON cannot say");
    assert!(!line.contains(&b'\n'));
    assert_eq!(read_request(&line), Ok(Incoming::Command(request.command)));
}

/// A line that a client of the control socket sends.
pub fn control_request(data: &[u8]) {
    match read_request(data) {
        Ok(Incoming::Hello) => {}
        Ok(Incoming::Command(command)) => assert_understood(command),
        Err(reply) => {
            match &reply {
                ServerReply::Refused(why) => assert_one_line(why),
                ServerReply::Mismatch { version } => assert_eq!(*version, VERSION),
                other => panic!("{other:?}"),
            }
            assert_answered(&reply);
        }
    }
}

fn assert_answered<R: Serialize + DeserializeOwned + PartialEq + Debug>(reply: &R) {
    let line = serde_json::to_vec(reply).expect("nothing that JSON cannot say");
    assert!(!line.contains(&b'\n'));
    assert_eq!(&serde_json::from_slice::<R>(&line).expect("a reply"), reply);
}

/// A line that a client gets, perhaps from somebody else's balance: what is shown of it is whole
/// lines, and leaves the terminal alone.
pub fn control_reply(data: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<InstanceReply>(data) else { return };
    assert_answered(&reply);
    for format in reply_formats() {
        if let Some(rendered) = render::render(&format, &reply) {
            assert!(!rendered.text.is_empty());
            assert_lines(&rendered.text);
        }
    }
    if let InstanceReply::Refused(why) = reply {
        let mut told = Vec::new();
        ClientError::Refused(why).report(&mut Vec::new(), &mut told);
        let told = String::from_utf8(told).expect("text");
        assert_one_line(told.strip_suffix('\n').expect("a line"));
    }
}

/// How the replies to all commands are shown.
fn reply_formats() -> impl Iterator<Item = ReplyFormat> {
    let lines = command_table::COMMANDS.iter().flat_map(|command| {
        [format!("{} 0 1 2", command.name), format!("{} --json", command.name)]
    });
    lines.filter_map(|line| match command::parse(&line, 0) {
        Ok(ParsedCommand::Request { format, .. }) => Some(format),
        _ => None,
    })
}
