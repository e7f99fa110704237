//! The unfinished word at the end of a line of commands, for completion.
//!
//! Pure. Invariant: a completed word is a command or the name of a server, in a place where the
//! command table has one.

use super::{command, command_table};

/// What completes an unfinished word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The name of a command.
    Command,
    /// The name of a server.
    Server,
}

/// The unfinished word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished<'a> {
    /// The line before the word.
    pub(crate) before: &'a str,
    /// The word; empty after a blank.
    pub(crate) word: &'a str,
    /// What completes the word.
    pub(crate) expected: Expected,
}

/// The unfinished word of a line; `None` if nothing completes the word.
pub(crate) fn of(line: &str) -> Option<Unfinished<'_>> {
    let text = command::split(line).last()?;
    let word = text.rsplit(|c: char| c.is_ascii_whitespace()).next()?;
    let before = &line[..line.len() - word.len()];
    let mut words = text[..text.len() - word.len()].split_ascii_whitespace();
    let expected = match (words.next(), words.next()) {
        (None, _) => Expected::Command,
        (Some(name), None) if command_table::find(name, None)?.takes_channel() => Expected::Server,
        _ => return None,
    };
    Some(Unfinished { before, word, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_first_and_servers_where_a_command_takes_a_channel() {
        use Expected::{Command, Server};
        let found =
            |line| of(line).map(|Unfinished { before, word, expected }| (before, word, expected));
        for (line, expected) in [
            ("", Some(("", "", Command))),
            ("dis", Some(("", "dis", Command))),
            ("  dis", Some(("  ", "dis", Command))),
            ("group 2; ma", Some(("group 2; ", "ma", Command))),
            ("group 2;ma", Some(("group 2;", "ma", Command))),
            ("disable ", Some(("disable ", "", Server))),
            ("d mx", Some(("d ", "mx", Server))),
            ("show; maxc  mx", Some(("show; maxc  ", "mx", Server))),
            ("mrtg-bytes m", Some(("mrtg-bytes ", "m", Server))),
            ("maxc mx1 7", None),
            ("drain mx1 ", None),
            ("group m", None),
            ("show m", None),
            ("nosuch m", None),
        ] {
            assert_eq!(found(line), expected, "{line}");
        }
    }
}
