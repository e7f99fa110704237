//! Tests of the client against fake instances.

use std::{fs, os::unix::net::UnixListener};

use super::*;
use crate::control::client::fake::{FakeInstance, FakeReply, PID, ScratchDir};
use crate::control::protocol::{InstanceCommand, InstanceReply};
use crate::{
    selection::{ChannelId, ChannelRef},
    sys,
};

const FIRST: ChannelRef = ChannelRef::Id(ChannelId { group: 0, channel: 0 });

fn refusal(fake: &FakeInstance) -> ClientError {
    ControlClient::connect(&fake.dir.paths().socket).unwrap_err()
}

/// The texts on standard output and standard error, and the exit code.
fn reported(e: &ClientError) -> (String, String, u8) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = e.report(&mut out, &mut err);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
}

#[test]
fn requests_are_answered_one_after_another() {
    let fake = FakeInstance::new("client-ask", |command| match command {
        InstanceCommand::Show => FakeReply::json(InstanceReply::Table(Vec::new())),
        InstanceCommand::Drain { .. } => FakeReply::json(InstanceReply::Connections(3)),
        _ => FakeReply::json(InstanceReply::Already),
    });
    let mut client = ControlClient::connect(&fake.dir.paths().socket).unwrap();
    assert_eq!(client.pid(), PID);
    assert_eq!(client.user().unwrap(), sys::effective_user());
    assert_eq!(client.ask(InstanceCommand::Show).unwrap(), InstanceReply::Table(Vec::new()));
    assert_eq!(client.ask(InstanceCommand::Enable(FIRST)).unwrap(), InstanceReply::Already);
    let drain = InstanceCommand::Drain { id: FIRST, seconds: None };
    assert_eq!(client.ask(drain.clone()).unwrap(), InstanceReply::Connections(3));
    assert_eq!(fake.commands(), [InstanceCommand::Show, InstanceCommand::Enable(FIRST), drain]);
}

#[test]
fn a_missing_or_stale_socket_means_no_master() {
    let dir = ScratchDir::new("client-no-master");
    let path = dir.paths().socket;
    let assert_no_master = |path: &Path| {
        let e = ControlClient::connect(path).unwrap_err();
        assert_eq!(reported(&e), ("no master process, exiting.\n".to_owned(), String::new(), 69));
    };
    assert_no_master(&path);
    assert_no_master(&path.join("below"));
    drop(UnixListener::bind(&path).unwrap());
    assert_no_master(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "no socket").unwrap();
    assert_no_master(&path);
}

#[test]
fn another_release_and_a_refusal_are_different_errors() {
    let refuse = |why: &str| FakeReply::json(SocketReply::Refused(why.to_owned()));
    let fake = FakeInstance::with_handshake("client-release", |_| {
        FakeReply::json(SocketReply::Mismatch { version: 2 })
    });
    let line = "release mismatch, expecting 1, got 2, exiting.\n".to_owned();
    assert_eq!(reported(&refusal(&fake)), (line, String::new(), 65));
    let fake =
        FakeInstance::with_handshake("client-strange", |_| FakeReply::Line("HELO".to_owned()));
    let line = "release mismatch, expecting 1, got another, exiting.\n".to_owned();
    assert_eq!(reported(&refusal(&fake)), (line.clone(), String::new(), 65));
    let fake = FakeInstance::with_handshake("client-newer", |_| {
        FakeReply::Line("{\"greeting\":{}}".to_owned())
    });
    assert_eq!(reported(&refusal(&fake)), (line, String::new(), 65));
    // The text of a refusal does not make it a mismatch.
    let fake = FakeInstance::with_handshake("client-words", move |_| refuse("release mismatch"));
    assert_eq!(refusal(&fake).exit_code(), 71);
    let fake = FakeInstance::with_handshake("client-refused", move |_| refuse("not you"));
    let line = "balance: the running balance refuses the request: not you\n".to_owned();
    assert_eq!(reported(&refusal(&fake)), (String::new(), line, 71));
}

#[test]
fn a_process_that_ends_before_its_reply_is_named() {
    let fake = FakeInstance::new("client-gone", |_| FakeReply::HangUp);
    let mut client = ControlClient::connect(&fake.dir.paths().socket).unwrap();
    let e = client.ask(InstanceCommand::Show).unwrap_err();
    let line = "no master process with pid 4711, exiting.\n".to_owned();
    assert_eq!(reported(&e), (line, String::new(), 69));
}

#[test]
fn a_reply_of_another_release_is_reported_in_one_line() {
    for (i, reply) in ["{}", "\"new_reply\"", "{\"table\":7}", "{"].into_iter().enumerate() {
        let fake =
            FakeInstance::new(&format!("client-reply-{i}"), |_| FakeReply::Line(reply.to_owned()));
        let mut client = ControlClient::connect(&fake.dir.paths().socket).unwrap();
        let e = client.ask(InstanceCommand::Show).unwrap_err();
        let line =
            "balance: cannot read the reply: the running balance may be of another release\n";
        assert_eq!(reported(&e), (String::new(), line.to_owned(), 65), "{reply}");
    }
    let fake =
        FakeInstance::new("client-late", |_| FakeReply::json(SocketReply::Mismatch { version: 3 }));
    let mut client = ControlClient::connect(&fake.dir.paths().socket).unwrap();
    let e = client.ask(InstanceCommand::Show).unwrap_err();
    let line = "release mismatch, expecting 1, got 3, exiting.\n".to_owned();
    assert_eq!(reported(&e), (line, String::new(), 65));
}

#[test]
fn an_endless_reply_is_cut_off() {
    let fake =
        FakeInstance::new("client-endless", |_| FakeReply::Line("[".repeat(REPLY_LIMIT + 1)));
    let mut client = ControlClient::connect(&fake.dir.paths().socket).unwrap();
    assert!(matches!(client.ask(InstanceCommand::Show), Err(ClientError::Unreadable)));
}
