//! Tests of the command parser.

use proptest::prelude::*;

use super::*;
use crate::control::client::command_table::GROUPS;

fn id(group: usize, channel: usize) -> ChannelRef {
    ChannelId { group, channel }.into()
}

fn named(name: &str) -> ChannelRef {
    ChannelRef::Name(name.to_owned())
}

/// The command in the request for this text, in group 3.
fn sent(text: &str) -> InstanceCommand {
    match parse(text, 3) {
        Ok(ParsedCommand::Request { command, .. }) => command,
        other => panic!("{text}: {other:?}"),
    }
}

fn wrong(text: &str) -> String {
    parse(text, 3).unwrap_err().to_string()
}

#[test]
fn kill_has_no_abbreviation() {
    assert_eq!(parse("kill", 0), Ok(ParsedCommand::Kill));
    for text in ["k", "ki", "kil", "killx"] {
        assert_eq!(wrong(text), "syntax error");
    }
}

#[test]
fn unknown_words_and_missing_malformed_or_unused_arguments_are_syntax_errors() {
    for text in [
        "bogus",
        "showx",
        "SHOW",
        "Show",
        "versions",
        "exit",
        "1",
        "-",
        "disable",
        "enable",
        "reset",
        "group",
        "create",
        "create h",
        "assign",
        "assign 1",
        "assign 1 h",
        "maxc",
        "maxc 0",
        "mrtg-bytes",
        "mrtg-bytes 0",
        "mrtg-conns",
        "drain",
        "drop",
        "drain 1 x",
        "drain 1 -5",
        "group abc",
        "group 1x",
        "maxc 1 16more",
        "maxc 1 x",
        "mrtg-bytes 0 x",
        "mrtg-bytes x 0",
        "show x",
        "show x --json",
        "show --json x",
        "quit now",
        "hash 1",
        "disable 1 2",
        "drop 1 2",
        "create h 1 more",
        "assign 1 h 25 more",
        "mrtg-bytes 0 1 2",
        "drain 1 60 more",
    ] {
        assert_eq!(wrong(text), "syntax error", "{text}");
    }
}

#[test]
fn a_number_out_of_range_is_reported_in_the_words_of_each_command() {
    assert_eq!(wrong("disable -1"), "no such channel -1");
    assert_eq!(wrong("drop -1"), "no such channel -1");
    assert_eq!(wrong("reset -1.2"), "no such channel -1.2");
    assert_eq!(wrong("maxc -1 1"), "unknown channel");
    assert_eq!(wrong("maxc 0 -1"), "value out of range");
    assert_eq!(wrong("maxc 0 4294967296"), "value out of range");
    assert_eq!(wrong("assign -1 h 25"), "unknown channel");
    assert_eq!(wrong("mrtg-bytes -1 0"), "unknown group");
    assert_eq!(wrong("mrtg-conns 0 -1"), "unknown channel");
    assert_eq!(wrong("group 32"), "value out of range");
    assert_eq!(wrong("group -1"), "value out of range");
    assert_eq!(wrong("group 256"), "value out of range");
    assert_eq!(wrong("drain 1 99999999999999999999"), "value out of range");
}

#[test]
fn a_word_that_is_no_number_is_a_name() {
    for name in ["x", "2x", "mx1", "1.x", "1.", "1.2.3", "127.0.0.1", "[::1]:25", "-", "1.-1"] {
        assert_eq!(sent(&format!("disable {name}")), InstanceCommand::Disable(named(name)));
        assert_eq!(sent(&format!("drop {name}")), InstanceCommand::Drop(named(name)));
        let max = InstanceCommand::SetMax { id: named(name), max: 7 };
        assert_eq!(sent(&format!("maxc {name} 7")), max);
        assert_eq!(sent(&format!("mrtg-bytes {name}")), InstanceCommand::Channel(named(name)));
    }
    assert_eq!(sent("disable +2"), InstanceCommand::Disable(id(3, 2)));
    assert_eq!(parse("g 31", 3), Ok(ParsedCommand::Group(31)));
}

#[test]
fn a_dot_names_a_channel_of_another_group() {
    assert_eq!(sent("disable 1.2"), InstanceCommand::Disable(id(1, 2)));
    assert_eq!(sent("e 40.2"), InstanceCommand::Enable(id(40, 2)));
    assert_eq!(sent("maxc 0.1 5"), InstanceCommand::SetMax { id: id(0, 1), max: 5 });
    assert_eq!(sent("drop 1.0"), InstanceCommand::Drop(id(1, 0)));
    assert_eq!(sent("mrtg-bytes 1.2"), InstanceCommand::Channel(id(1, 2)));
    assert_eq!(sent("mrtg-bytes 1 2"), InstanceCommand::Channel(id(1, 2)));
    let Ok(ParsedCommand::Request { format, .. }) = parse("disable 1.2", 3) else { panic!() };
    assert_eq!(format, ReplyFormat::Disable(ChannelLabel::Number { group: Some(1), channel: 2 }));
}

#[test]
fn words_are_separated_by_blanks_and_tabs() {
    let json =
        ParsedCommand::Request { command: InstanceCommand::Show, format: ReplyFormat::TableJson };
    assert_eq!(parse("s --json", 0), Ok(json));
    let create =
        InstanceCommand::Create { group: 3, host: "h:55".to_owned(), port: "99".to_owned() };
    assert_eq!(sent("create\th:55  99"), create);
    for text in ["", " ", "\t", "\n"] {
        assert_eq!(parse(text, 0), Ok(ParsedCommand::Empty));
    }
    assert_eq!(sent("drain 2"), InstanceCommand::Drain { id: id(3, 2), seconds: None });
    assert_eq!(sent("drain 2 60"), InstanceCommand::Drain { id: id(3, 2), seconds: Some(60) });
    assert_eq!(sent("drain 2 5m"), InstanceCommand::Drain { id: id(3, 2), seconds: Some(300) });
}

#[test]
fn a_semicolon_separates() {
    let parts = |line| split(line).collect::<Vec<_>>();
    assert_eq!(parts("group 2; disable 1"), ["group 2", " disable 1"]);
    assert_eq!(parts("show;"), ["show", ""]);
    assert_eq!(parts("show;version"), ["show", "version"]);
    assert_eq!(parts("a;;\tb"), ["a", "", "\tb"]);
    assert_eq!(parts(""), [""]);
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_rejected_without_a_crash(
        text in r"((quit|show|dis|en|res|gr|cr|as|maxc|mrtg|dr|dro|kill|\PC{0,6})( ;?[-+0-9.x]{0,24}){0,4}[; ]){0,3}",
        group in 0..GROUPS,
    ) {
        for part in split(&text) {
            match parse(part, group) {
                Ok(ParsedCommand::Group(n)) => prop_assert!(n < GROUPS),
                Ok(ParsedCommand::Kill) => prop_assert!(part.contains("kill")),
                _ => {}
            }
        }
    }

    #[test]
    fn the_parts_of_a_line_are_the_line(line in "[ab; \t]{0,16}") {
        prop_assert_eq!(split(&line).collect::<Vec<_>>().join(";"), line);
    }

    #[test]
    fn a_number_reads_as_itself(n in any::<i64>()) {
        prop_assume!(n != i64::MIN);
        prop_assert_eq!(number(&n.to_string()), Some(n));
        prop_assert_eq!(number(&format!("{n}.x")), None);
    }

    #[test]
    fn a_displayed_command_parses_as_itself(
        text in r"((dis|en|res|dro|drain|assign|create|hash|rr|maxc|show|stats|kill)( [0-9.a]{1,4}){0,3})",
        group in 0..GROUPS,
    ) {
        if let Ok(ParsedCommand::Request { command, .. }) = parse(&text, group) {
            let mut current = 0;
            let displayed = command.to_string();
            for part in split(&displayed) {
                match parse(part, current) {
                    Ok(ParsedCommand::Group(group)) => current = group,
                    Ok(ParsedCommand::Request { command: again, .. }) => {
                        prop_assert_eq!(&again, &command);
                    }
                    other => prop_assert!(false, "{part}: {other:?}"),
                }
            }
        }
    }
}
