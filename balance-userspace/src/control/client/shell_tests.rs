//! Tests of the shell and of `-c`: input, output and exit code.

use std::fs;

use super::*;
use crate::control::{
    client::{
        fake::{FakeInstance, FakeReply, PORT, ScratchDir},
        one_shot::run_line,
    },
    protocol::{InstanceCommand, InstanceReply},
};
use crate::selection::{ChannelId, ChannelRef};

const BANNER: &str = "\nbalance 3.57 interactive command shell\nPID of master process is 4711\n\n";

/// Exit code, standard output and standard error of a shell with this input.
fn run_input(fake: &FakeInstance, input: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = Connection::find(Some(&fake.dir.0), None, PORT).and_then(|mut connection| {
        run_shell(&mut connection, &mut PlainLines(input.as_bytes()), &mut out, &mut err)
    });
    let code = code.unwrap_or_else(|e| e.report(&mut out, &mut err));
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Exit code and output of `-c`.
fn run_once(dir: &ScratchDir, line: &str, strict: bool) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = Connection::find(Some(&dir.0), None, PORT)
        .and_then(|mut connection| run_line(line, strict, &mut connection, &mut out, &mut err));
    let code = code.unwrap_or_else(|e| e.report(&mut out, &mut err));
    (code, String::from_utf8(out).unwrap() + &String::from_utf8(err).unwrap())
}

fn obliging_instance(name: &str) -> FakeInstance {
    FakeInstance::new(name, |command| {
        FakeReply::json(match command {
            InstanceCommand::Disable(ChannelRef::Id(ChannelId { channel: 9, .. })) => {
                InstanceReply::NoSuchChannel
            }
            InstanceCommand::Create { .. } => {
                InstanceReply::Created(ChannelId { group: 5, channel: 0 })
            }
            _ => InstanceReply::Done,
        })
    })
}

#[test]
fn prompts_and_replies_are_those_of_the_classic() {
    let fake = obliging_instance("shell-answers");
    let (code, out, err) = run_input(
        &fake,
        "bogus\ndisable\ndisable 9\ngroup 5\ncreate h 1\n\nenable 0\nquit\nshow\n",
    );
    let expected = "balance[0] syntax error\nbalance[0] syntax error\n\
                    balance[0] no such channel 9\nbalance[0] balance[5] channel created\n\
                    balance[5] balance[5] channel 0 enabled\nbalance[5] ";
    assert_eq!((code, out), (0, format!("{BANNER}{expected}")));
    let hints = "balance: bogus: unknown command, help lists the commands\n\
                 balance: usage: disable <channel>\n";
    assert_eq!(err, hints);
    let enable = InstanceCommand::Enable(ChannelId { group: 5, channel: 0 }.into());
    assert_eq!(fake.commands().last(), Some(&enable));
}

#[test]
fn the_end_of_the_input_ends_the_shell_with_a_newline() {
    let fake = obliging_instance("shell-end");
    assert_eq!(run_input(&fake, ""), (0, format!("{BANNER}balance[0] \n"), String::new()));
    let (code, out, _) = run_input(&fake, "group 1");
    assert_eq!((code, out), (0, format!("{BANNER}balance[0] balance[1] \n")));
}

#[test]
fn input_that_is_not_utf8_is_a_syntax_error() {
    let fake = obliging_instance("shell-bytes");
    let mut connection = Connection::find(Some(&fake.dir.0), None, PORT).unwrap();
    let mut out = Vec::new();
    let input: &[u8] = b"\xff\xfe\0\nquit\n";
    assert_eq!(
        run_shell(&mut connection, &mut PlainLines(input), &mut out, &mut Vec::new()).unwrap(),
        0
    );
    let expected = format!("{BANNER}balance[0] syntax error\nbalance[0] ");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn kill_ends_the_shell_when_balance_has_ended() {
    for (name, dies) in [("shell-leave", false), ("shell-die", true)] {
        let fake =
            FakeInstance::new(name, move |_| if dies { FakeReply::Die } else { FakeReply::Leave });
        let (code, out, _) = run_input(&fake, "kill\nshow\n");
        let expected = format!("{BANNER}balance[0] shutdown complete, exiting.\n");
        assert_eq!((code, out), (0, expected));
    }
}

#[test]
fn the_end_of_the_instance_ends_the_shell() {
    for (name, dies) in [("shell-gone-left", false), ("shell-gone-died", true)] {
        let fake =
            FakeInstance::new(name, move |_| if dies { FakeReply::Die } else { FakeReply::Leave });
        let (code, out, err) = run_input(&fake, "disable 0\nhelpless\ndisable 1\nversion\n");
        let expected = "balance[0] channel 0 disabled\nbalance[0] syntax error\n\
                        balance[0] no master process with pid 4711, exiting.\n";
        assert_eq!((code, out), (69, format!("{BANNER}{expected}")));
        assert_eq!(err, "balance: helpless: unknown command, help lists the commands\n");
    }
}

#[test]
fn one_line_gives_exit_code_0_unless_the_caller_is_strict() {
    let fake = obliging_instance("once-strict");
    let dir = &fake.dir;
    let hint = "balance: the command failed; exit code 0 as in 3.57, 1 with --strict";
    assert_eq!(run_once(dir, "disable 9", false), (0, format!("no such channel 9\n{hint}\n")));
    assert_eq!(run_once(dir, "disable 9", true), (1, "no such channel 9\n".to_owned()));
    for (line, printed, hint) in [
        ("shwo", "syntax error", "shwo: unknown command, did you mean show?"),
        ("create h", "syntax error", "usage: create <host> <port>"),
        ("maxc 0 -5", "value out of range", "usage: maxc <channel> <maxc>"),
        ("show x", "syntax error", "usage: show [--json]"),
        ("drain 0 5x", "syntax error", "usage: drain <channel> [<time>]"),
    ] {
        assert_eq!(run_once(dir, line, true), (1, format!("{printed}\nbalance: {hint}\n")));
    }
    assert_eq!(run_once(dir, "disable 1", true), (0, "channel 1 disabled\n".to_owned()));
    assert_eq!(run_once(dir, "quit", true), (0, String::new()));
    assert_eq!(run_once(dir, " \t\n", true), (0, String::new()));
    assert_eq!(run_once(dir, "g 1", true), (0, String::new()));
    assert_eq!(
        run_once(dir, "group 2; enable 1; hash", true),
        (0, "channel 1 enabled\ngroup 2 set to hash\n".to_owned())
    );
}

#[test]
fn without_an_instance_every_command_reports_it() {
    let dir = ScratchDir::new("once-no-master");
    for line in ["quit", "version", "", "show"] {
        assert_eq!(run_once(&dir, line, false), (69, "no master process, exiting.\n".to_owned()));
    }
    let missing = dir.0.join("missing");
    let (code, text) = run_once(&ScratchDir(missing.clone()), "show", false);
    let expected = format!("balance: --run-dir {}: no such directory\n", missing.display());
    assert_eq!((code, text), (66, expected));
}

#[test]
fn a_dead_instance_is_named_by_its_pid_file() {
    let fake = FakeInstance::new("once-died", |_| FakeReply::Die);
    assert_eq!(run_once(&fake.dir, "disable 0", false).0, 0);
    let gone = (69, "no master process with pid 4711, exiting.\n".to_owned());
    assert_eq!(run_once(&fake.dir, "show", false), gone);
    fs::write(fake.dir.paths().pid, "x").unwrap();
    let no_master = (69, "no master process, exiting.\n".to_owned());
    assert_eq!(run_once(&fake.dir, "show", false), no_master);
}
