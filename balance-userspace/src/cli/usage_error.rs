//! Texts of command line errors.
//!
//! Invariant: every error is one line that names the option as the user typed it, and the expected
//! value.

use std::{error::Error as _, ffi::OsString};

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::error::one_line;

/// Describes an error that `command` found on a command line.
pub(crate) fn describe(error: &clap::Error, command: &Command, line: &[OsString]) -> String {
    one_line(&text(error, command, line))
}

fn text(error: &clap::Error, command: &Command, line: &[OsString]) -> String {
    let arg = context(error, ContextKind::InvalidArg);
    let option = arg.as_deref().map(|arg| as_typed(arg, command, line)).unwrap_or_default();
    let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::ValueValidation => {
            let expected = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{option} {}: {expected}", quoted(&value))
        }
        ErrorKind::InvalidValue => match values(error, ContextKind::ValidValue) {
            valid if valid.is_empty() => format!("{option}: a value is missing"),
            valid if value.is_empty() => format!("{option}: expected {}", list(&valid)),
            valid => format!("{option} {}: expected {}", quoted(&value), list(&valid)),
        },
        ErrorKind::TooManyValues => format!("{option}: this option takes no value"),
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            let similar = context(error, ContextKind::SuggestedArg);
            let hint = similar.map(|arg| format!(", did you mean {arg}?")).unwrap_or_default();
            format!("{option}: unknown option{hint}")
        }
        ErrorKind::UnknownArgument => format!("{}: unexpected word", quoted(&option)),
        ErrorKind::MissingRequiredArgument => {
            let missing = values(error, ContextKind::InvalidArg);
            format!("{} is missing", missing.join(" ").replace(['<', '>'], ""))
        }
        ErrorKind::ArgumentConflict => match context(error, ContextKind::InvalidSubcommand) {
            Some(verb) => verb_first(&verb),
            None => {
                let prior = values(error, ContextKind::PriorArg);
                let prior = prior.iter().map(|arg| as_typed(arg, command, line));
                let prior: Vec<_> = prior.collect();
                format!("{option} and {} exclude each other", prior.join(", "))
            }
        },
        ErrorKind::InvalidUtf8 => "a word is not UTF-8".to_owned(),
        _ => first_paragraph(error),
    }
}

/// The error for a verb behind options or a port.
pub(super) fn verb_first(verb: &str) -> String {
    format!("{verb} comes first: balance {verb} [OPTIONS]")
}

/// Returns a word as it is, in quotes if it is empty or has blanks.
pub(crate) fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(char::is_whitespace) {
        format!("'{word}'")
    } else {
        word.to_owned()
    }
}

/// Returns an argument as clap displays it in the form that is on the command line: the long
/// option, or the short one. A positional argument is its name.
fn as_typed(arg: &str, command: &Command, line: &[OsString]) -> String {
    let name = arg.split([' ', '=']).next().unwrap_or(arg);
    let Some(long) = name.strip_prefix("--") else {
        return if arg.starts_with('-') { name } else { arg }.replace(['<', '>', '[', ']'], "");
    };
    let is_long = |word: &OsString| {
        let word = word.to_string_lossy();
        word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let mut arguments = commands.flat_map(Command::get_arguments);
    let short = arguments.find(|arg| arg.get_long() == Some(long)).and_then(|arg| arg.get_short());
    match short {
        Some(short) if !line.iter().any(is_long) => format!("-{short}"),
        _ => name.to_owned(),
    }
}

/// Joins alternatives, as in "auto, relay or splice".
fn list(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    values(error, kind).into_iter().next()
}

fn values(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// The first paragraph of clap's own message, as one line.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let words = words.join(" ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use crate::cli;

    /// The text and the exit code for a command line; words are separated by `|`.
    fn error(line: &str) -> (String, u8) {
        let words = line.split('|').filter(|_| !line.is_empty());
        let e = cli::parse(std::iter::once("balance").chain(words).map(Into::into)).unwrap_err();
        (e.to_string(), e.exit_code())
    }

    #[test]
    fn an_error_names_the_option_and_the_expected_value() {
        for (line, expected) in [
            ("", "PORT is missing"),
            ("-x|25", "-x: unknown option"),
            ("-fx|25", "-x: unknown option"),
            ("--foregruond|25", "--foregruond: unknown option, did you mean --foreground?"),
            (
                "-T|5x|25",
                "-T 5x: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-T5x|25",
                "-T 5x: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-fT5x|25",
                "-T 5x: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "--idle-timeout|5x|25",
                "--idle-timeout 5x: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "--idle-timeout=5x|25",
                "--idle-timeout 5x: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-T|0|25",
                "-T 0: expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-T||25",
                "-T '': expected a time from 1 to 4294967295 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-t|0|25",
                "-t 0: expected a time from 1 to 86400 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            (
                "-t|1 s|25",
                "-t '1 s': expected a time from 1 to 86400 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            ("25|-t", "-t: a value is missing"),
            ("25|-c", "-c: a value is missing"),
            ("25|--datapath", "--datapath: expected auto, splice, sockmap or relay"),
            ("--datapath|tcp|25", "--datapath tcp: expected auto, splice, sockmap or relay"),
            ("--log-format|xml|25", "--log-format xml: expected text or json"),
            ("--workers|0|25", "--workers 0: expected a number of threads from 1 to 1024"),
            (
                "--offload-after|-1|25",
                "--offload-after -1: expected a number of buffers from 0 to 4294967295",
            ),
            (
                "--max-connections|0|25",
                "--max-connections 0: expected a number of connections, 1 or more",
            ),
            (
                "--grace|-1|25",
                "--grace -1: expected a time from 0 to 31536000 seconds, such as 30, 30s, 5m, 2h or 1d",
            ),
            ("-b||25", "-b '': expected a host name or an address"),
            ("--source||25", "--source '': expected a host name or an address"),
            ("--user||25", "--user '': expected the name of a user"),
            ("--foreground=x|25", "--foreground: this option takes no value"),
            ("-c|show", "PORT is missing"),
            ("-c|show|25|a", "-c and -i take the port and no servers"),
            ("-i", "PORT is missing"),
            ("start|25", "25: unexpected word"),
            ("-f|start", "start comes first: balance start [OPTIONS]"),
            ("check|a|--config|b", "FILE and --config exclude each other"),
            ("status|--jso", "--jso: unknown option, did you mean --json?"),
            ("start|--log-format|xml", "--log-format xml: expected text or json"),
            ("start|--config", "--config: a value is missing"),
        ] {
            assert_eq!(error(line), (format!("{expected} (try balance --help)"), 64), "{line}");
        }
    }

    #[test]
    fn an_error_is_one_line_whatever_the_word_is() {
        for line in ["-T|a\nb|25", "--\u{1b}[2J|25", "-t|\u{1b}|25", "start|\r\n"] {
            assert!(!error(line).0.contains(char::is_control), "{line:?}");
        }
    }
}
