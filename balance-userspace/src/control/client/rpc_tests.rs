//! A client and all kinds of balances.

use std::{fs, os::unix::net::UnixListener};

use super::*;
use crate::control::client::fake::{Act, Fake, PID, Scratch};
use crate::{selection::ChannelId, sys};

const FIRST: ChannelId = ChannelId { group: 0, channel: 0 };

fn refusal(fake: &Fake) -> ClientError {
    Client::connect(&fake.dir.paths().socket).unwrap_err()
}

/// What is told on standard output and standard error, and the exit code.
fn told(e: &ClientError) -> (String, String, u8) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = e.report(&mut out, &mut err);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
}

#[test]
fn questions_are_answered_one_after_another() {
    let fake = Fake::new("client-ask", |command| match command {
        Command::Show => Act::Say(Reply::Table(Vec::new())),
        Command::Drain { .. } => Act::Say(Reply::Left(3)),
        _ => Act::Say(Reply::Already),
    });
    let mut client = Client::connect(&fake.dir.paths().socket).unwrap();
    assert_eq!(client.pid(), PID);
    assert_eq!(client.user().unwrap(), sys::effective_user());
    assert_eq!(client.ask(Command::Show).unwrap(), Reply::Table(Vec::new()));
    assert_eq!(client.ask(Command::Enable(FIRST)).unwrap(), Reply::Already);
    let drain = Command::Drain { id: FIRST, seconds: None };
    assert_eq!(client.ask(drain.clone()).unwrap(), Reply::Left(3));
    assert_eq!(fake.asked(), [Command::Show, Command::Enable(FIRST), drain]);
}

#[test]
fn nobody_is_there_when_the_socket_is_missing_or_stale() {
    let dir = Scratch::new("client-nobody");
    let path = dir.paths().socket;
    let nobody = |path: &Path| {
        let e = Client::connect(path).unwrap_err();
        assert_eq!(told(&e), ("no master process, exiting.\n".to_owned(), String::new(), 69));
    };
    nobody(&path);
    nobody(&path.join("below"));
    drop(UnixListener::bind(&path).unwrap());
    nobody(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "no socket").unwrap();
    nobody(&path);
}

#[test]
fn one_of_another_release_is_told_from_one_that_refuses() {
    let refuse = |why: &str| Act::Say(Reply::Refused(why.to_owned()));
    let fake = Fake::strange("client-release", |_| Act::Say(Reply::Mismatch { version: 2 }));
    let line = "release mismatch, expecting 1, got 2, exiting.\n".to_owned();
    assert_eq!(told(&refusal(&fake)), (line, String::new(), 65));
    let fake = Fake::strange("client-strange", |_| Act::Line("HELO".to_owned()));
    let line = "release mismatch, expecting 1, got another, exiting.\n".to_owned();
    assert_eq!(told(&refusal(&fake)), (line.clone(), String::new(), 65));
    let fake = Fake::strange("client-newer", |_| Act::Line("{\"greeting\":{}}".to_owned()));
    assert_eq!(told(&refusal(&fake)), (line, String::new(), 65));
    // The words alone do not make a refusal a mismatch.
    let fake = Fake::strange("client-words", move |_| refuse("release mismatch"));
    assert_eq!(refusal(&fake).exit_code(), 71);
    let fake = Fake::strange("client-refused", move |_| refuse("not you"));
    let line = "balance: the master refuses: not you\n".to_owned();
    assert_eq!(told(&refusal(&fake)), (String::new(), line, 71));
}

#[test]
fn one_that_goes_away_in_the_middle_is_named() {
    let fake = Fake::new("client-gone", |_| Act::HangUp);
    let mut client = Client::connect(&fake.dir.paths().socket).unwrap();
    let e = client.ask(Command::Show).unwrap_err();
    let line = "no master process with pid 4711, exiting.\n".to_owned();
    assert_eq!(told(&e), (line, String::new(), 69));
}

#[test]
fn a_reply_of_another_release_is_told_in_one_line() {
    for (i, reply) in ["{}", "\"new_reply\"", "{\"table\":7}", "{"].into_iter().enumerate() {
        let fake = Fake::new(&format!("client-reply-{i}"), |_| Act::Line(reply.to_owned()));
        let mut client = Client::connect(&fake.dir.paths().socket).unwrap();
        let e = client.ask(Command::Show).unwrap_err();
        let line = "balance: the reply of the master cannot be read; is it of another release?\n";
        assert_eq!(told(&e), (String::new(), line.to_owned(), 65), "{reply}");
    }
    let fake = Fake::new("client-late", |_| Act::Say(Reply::Mismatch { version: 3 }));
    let mut client = Client::connect(&fake.dir.paths().socket).unwrap();
    let e = client.ask(Command::Show).unwrap_err();
    let line = "release mismatch, expecting 1, got 3, exiting.\n".to_owned();
    assert_eq!(told(&e), (line, String::new(), 65));
}

#[test]
fn an_endless_reply_is_cut_off() {
    let fake = Fake::new("client-endless", |_| {
        Act::Line("[".repeat(crate::control::protocol::REPLY_LINE + 1))
    });
    let mut client = Client::connect(&fake.dir.paths().socket).unwrap();
    assert!(matches!(client.ask(Command::Show), Err(ClientError::Unreadable)));
}
