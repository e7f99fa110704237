//! The table of control commands: name, abbreviation, arguments, help and parser of each.
//!
//! Parsing, `help`, completion and the manual page all come from this table.
//!
//! Invariants: the commands of the classic come first, in the order of its help. An abbreviation
//! means one command at most, and the classic's abbreviations mean what they meant there. The help
//! of a command says what happens to open connections.

use super::{
    command::{Arguments, CommandError, ParsedCommand},
    render::ReplyFormat,
};
use crate::{
    cli::{similar, usage_error::quoted},
    control::protocol::InstanceCommand,
    error::one_line,
    selection::Method,
};

/// Groups that `group` can change to, as in the classic. Further groups are reached as `G.N`.
pub const GROUPS: usize = 32;

/// The longest wait of `drain`, in seconds.
const MAX_DRAIN_SECONDS: u64 = 31_536_000;

/// A command of `-c` and `-i`.
pub struct CommandSpec {
    /// The name.
    pub name: &'static str,
    /// The shortest abbreviation.
    shortest: &'static str,
    /// The arguments. A row whose arguments are an option describes that form of the command.
    arguments: &'static str,
    /// The help, in lines of at most 47 characters.
    help: &'static [&'static str],
    /// Reads the arguments.
    parser: fn(&Arguments<'_>) -> Result<ParsedCommand, CommandError>,
}

/// All commands, in the order of the help.
pub static COMMANDS: [CommandSpec; 25] = [
    CommandSpec {
        name: "create",
        shortest: "c",
        arguments: "<host> <port>",
        help: &["add a channel, disabled, to the current group"],
        parser: |args| {
            let (host, port) = (args.word(0)?.to_owned(), args.word(1)?.to_owned());
            let command = InstanceCommand::Create { group: args.group, host, port };
            request(command, ReplyFormat::Create)
        },
    },
    CommandSpec {
        name: "assign",
        shortest: "a",
        arguments: "<channel> <host> <port>",
        help: &["change the address of a disabled channel", KEEP_SERVER],
        parser: |args| {
            let (host, port) = (args.word(1)?.to_owned(), args.word(2)?.to_owned());
            let id = args.known_channel(0)?;
            request(InstanceCommand::Assign { id, host, port }, ReplyFormat::Assign)
        },
    },
    CommandSpec {
        name: "disable",
        shortest: "d",
        arguments: "<channel>",
        help: &["stop taking new connections", CONTINUE],
        parser: |args| {
            let (id, label) = args.channel(0)?;
            request(InstanceCommand::Disable(id), ReplyFormat::Disable(label))
        },
    },
    CommandSpec {
        name: "enable",
        shortest: "e",
        arguments: "<channel>",
        help: &["take new connections", CONTINUE],
        parser: |args| {
            let (id, label) = args.channel(0)?;
            request(InstanceCommand::Enable(id), ReplyFormat::Enable(label))
        },
    },
    CommandSpec {
        name: "group",
        shortest: "g",
        arguments: "<group>",
        help: &["change the current group, from 0 to 31"],
        parser: |args| match usize::try_from(args.number(0)?) {
            Ok(group) if group < GROUPS => Ok(ParsedCommand::Group(group)),
            _ => Err(CommandError::OutOfRange),
        },
    },
    CommandSpec {
        name: "hash",
        shortest: "ha",
        arguments: "",
        help: &[
            "select channels of the current group by a",
            "hash of the client address",
            KEEP_SERVER,
        ],
        parser: |args| method(args.group, Method::Hash),
    },
    CommandSpec {
        name: "help",
        shortest: "h",
        arguments: "",
        help: &["print this help"],
        parser: |_| Ok(ParsedCommand::Help),
    },
    CommandSpec {
        name: "kill",
        // A single letter must not end the instance.
        shortest: "kill",
        arguments: "",
        help: &["end balance: accept no new connections", CONTINUE],
        parser: |_| Ok(ParsedCommand::Kill),
    },
    CommandSpec {
        name: "maxc",
        shortest: "m",
        arguments: "<channel> <maxc>",
        help: &["limit the connections at a time, 0: no limit", CONTINUE],
        parser: |args| {
            let max = args.number(1)?;
            let (id, label) = (args.known_channel(0)?, args.label(0)?);
            let max = u32::try_from(max).map_err(|_| CommandError::OutOfRange)?;
            request(
                InstanceCommand::SetMax { id, max },
                ReplyFormat::SetMax { channel: label, max },
            )
        },
    },
    CommandSpec {
        name: "mrtg-bytes",
        shortest: "mr",
        arguments: "<group> <channel>",
        help: &["print bytes received and sent, for MRTG"],
        parser: |args| {
            let id = args.graphed_channel()?;
            request(InstanceCommand::Channel(id), ReplyFormat::MrtgBytes)
        },
    },
    CommandSpec {
        name: "mrtg-conns",
        shortest: "mrtg-c",
        arguments: "<group> <channel>",
        help: &["print the number of connections, for MRTG"],
        parser: |args| {
            let id = args.graphed_channel()?;
            request(InstanceCommand::Channel(id), ReplyFormat::MrtgConns)
        },
    },
    CommandSpec {
        name: "quit",
        shortest: "q",
        arguments: "",
        help: &["leave the shell"],
        parser: |_| Ok(ParsedCommand::Quit),
    },
    CommandSpec {
        name: "reset",
        shortest: "r",
        arguments: "<channel>",
        help: &["set totalc, sent and rcvd to zero", CONTINUE],
        parser: |args| {
            let (id, label) = args.channel(0)?;
            request(InstanceCommand::Reset(id), ReplyFormat::Reset(label))
        },
    },
    CommandSpec {
        name: "rr",
        shortest: "rr",
        arguments: "",
        help: &["select channels of the current group in turn", KEEP_SERVER],
        parser: |args| method(args.group, Method::RoundRobin),
    },
    CommandSpec {
        name: "show",
        shortest: "s",
        arguments: "",
        help: &["print all channels"],
        parser: |_| request(InstanceCommand::Show, ReplyFormat::Table),
    },
    CommandSpec {
        name: "version",
        shortest: "v",
        arguments: "",
        help: &["print the version of the classic balance that", "this program is compatible with"],
        parser: |_| Ok(ParsedCommand::Version),
    },
    CommandSpec {
        name: "show",
        shortest: "s",
        arguments: JSON,
        help: &["print all channels as JSON"],
        parser: |_| request(InstanceCommand::Show, ReplyFormat::TableJson),
    },
    CommandSpec {
        name: "servers",
        shortest: "ser",
        arguments: "",
        help: &["print all channels with the names of their", "servers"],
        parser: |_| request(InstanceCommand::Show, ReplyFormat::Servers),
    },
    CommandSpec {
        name: "servers",
        shortest: "ser",
        arguments: JSON,
        help: &["the same as JSON"],
        parser: |_| request(InstanceCommand::Show, ReplyFormat::ServersJson),
    },
    CommandSpec {
        name: "sessions",
        shortest: "se",
        arguments: "",
        help: &["print all connections"],
        parser: |_| request(InstanceCommand::Sessions, ReplyFormat::Sessions),
    },
    CommandSpec {
        name: "sessions",
        shortest: "se",
        arguments: JSON,
        help: &["the same as JSON"],
        parser: |_| request(InstanceCommand::Sessions, ReplyFormat::SessionsJson),
    },
    CommandSpec {
        name: "stats",
        shortest: "st",
        arguments: "",
        help: &["print totals since the start"],
        parser: |_| request(InstanceCommand::Stats, ReplyFormat::Stats),
    },
    CommandSpec {
        name: "stats",
        shortest: "st",
        arguments: JSON,
        help: &["the same as JSON"],
        parser: |_| request(InstanceCommand::Stats, ReplyFormat::StatsJson),
    },
    CommandSpec {
        name: "drain",
        shortest: "dr",
        arguments: "<channel> [<time>]",
        help: &[
            "disable the channel, wait until it has no",
            "connection, at most for <time> (60, 60s, 5m),",
            "and print how many are left",
            CONTINUE,
        ],
        parser: |args| {
            let (id, label) = args.channel(0)?;
            let seconds = args.optional_seconds(1, MAX_DRAIN_SECONDS)?;
            request(InstanceCommand::Drain { id, seconds }, ReplyFormat::Drain(label))
        },
    },
    CommandSpec {
        name: "drop",
        shortest: "dro",
        arguments: "<channel>",
        help: &[
            "reset all connections of the channel, on both",
            "sides; an enabled channel takes new ones",
        ],
        parser: |args| {
            let (id, label) = args.channel(0)?;
            request(InstanceCommand::Drop(id), ReplyFormat::Drop(label))
        },
    },
];

/// The option for JSON.
const JSON: &str = "--json";

const CONTINUE: &str = "(open connections continue)";
const KEEP_SERVER: &str = "(open connections keep their server)";

/// Notes on all commands, for `help` and the manual.
pub const NOTES: &str = "\
<channel> is a number in the current group, or <group>.<number> or the name of
the server in any group. Every command but kill can be abbreviated. A semicolon
separates several commands on a line. A command that fails ends the line.
A command whose help does not mention open connections does not affect them.
";

/// The output of `version`. Scripts compare it.
pub(super) const VERSION: &str = "  This is balance 3.57\n  MAXGROUPS=32\n  MAXCHANNELS=64\n";

impl CommandSpec {
    /// The command as a user types it, with placeholders for its arguments.
    pub fn usage(&self) -> String {
        format!("{} {}", self.name, self.arguments).trim_end().to_owned()
    }

    /// The help, in lines.
    pub fn help(&self) -> &'static [&'static str] {
        self.help
    }

    /// Whether a channel is the first argument, or can be it by its name.
    pub(super) fn takes_channel(&self) -> bool {
        self.arguments.contains("<channel>")
    }

    /// Whether this row describes a form of a command that has a row of its own.
    fn is_form(&self) -> bool {
        self.arguments.starts_with("--")
    }

    fn matches(&self, word: &str) -> bool {
        let word = if word == "?" { "help" } else { word };
        self.name.starts_with(word) && word.len() >= self.shortest.len()
    }

    /// Reads the arguments of this command.
    pub(super) fn parse(&self, args: &Arguments<'_>) -> Result<ParsedCommand, CommandError> {
        if args.count() > self.arguments.split_whitespace().count() {
            return Err(CommandError::Syntax);
        }
        (self.parser)(args)
    }
}

/// All commands, without further rows for forms of the same command.
pub fn commands() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.iter().filter(|command| !command.is_form())
}

/// Finds the row for this name or abbreviation, and this first argument.
pub(super) fn find(word: &str, argument: Option<&str>) -> Option<&'static CommandSpec> {
    let plain = commands().find(|command| command.matches(word))?;
    let form = COMMANDS.iter().find(|command| {
        command.is_form() && command.name == plain.name && argument == Some(command.arguments)
    });
    Some(form.unwrap_or(plain))
}

/// A line that helps to correct a command that begins with this word.
pub(super) fn hint(word: &str) -> String {
    if let Some(command) = find(word, None) {
        let has_json = COMMANDS.iter().any(|form| form.is_form() && form.name == command.name);
        let option = if has_json { " [--json]" } else { "" };
        return format!("usage: {}{option}", command.usage());
    }
    let similar = similar::closest(word, commands().map(|command| command.name));
    let hint = similar
        .map_or("help lists the commands".to_owned(), |name| format!("did you mean {name}?"));
    format!("{}: unknown command, {hint}", quoted(&one_line(word)))
}

/// The output of `help`.
pub(super) fn help() -> String {
    let mut text = "available commands:\n".to_owned();
    for command in &COMMANDS {
        let mut left = command.usage();
        for line in command.help {
            text += &format!("  {left:<31}{line}\n");
            left.clear();
        }
    }
    text + NOTES
}

fn request(command: InstanceCommand, format: ReplyFormat) -> Result<ParsedCommand, CommandError> {
    Ok(ParsedCommand::Request { command, format })
}

fn method(group: usize, method: Method) -> Result<ParsedCommand, CommandError> {
    request(InstanceCommand::SetMethod { group, method }, ReplyFormat::Method { group, method })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_described_from_column_34_on() {
        let text = help();
        let described = |command: &CommandSpec| {
            text.lines().any(|line| {
                line.strip_prefix("  ").and_then(|l| l.split_whitespace().next())
                    == Some(command.name)
                    && line.as_bytes()[32] == b' '
                    && line.as_bytes()[33] != b' '
            })
        };
        assert!(COMMANDS.iter().all(described), "{text}");
        assert!(text.starts_with("available commands:\n  create <host> <port>           add "));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn the_shortest_abbreviations_are_those_of_the_classic() {
        let name = |word| find(word, None).map_or("-", |command| command.name);
        for (short, long) in [
            ("q", "quit"),
            ("s", "show"),
            ("h", "help"),
            ("?", "help"),
            ("d", "disable"),
            ("g", "group"),
            ("r", "reset"),
            ("e", "enable"),
            ("c", "create"),
            ("a", "assign"),
            ("m", "maxc"),
            ("mr", "mrtg-bytes"),
            ("mrtg-c", "mrtg-conns"),
            ("v", "version"),
            ("ha", "hash"),
            ("rr", "rr"),
            ("se", "sessions"),
            ("ser", "servers"),
            ("st", "stats"),
            ("dr", "drain"),
            ("dro", "drop"),
        ] {
            assert_eq!(name(short), long);
        }
    }

    #[test]
    fn an_abbreviation_means_one_command() {
        for command in commands() {
            assert!(command.name.starts_with(command.shortest));
            for length in 1..=command.name.len() {
                let short = &command.name[..length];
                let matching = commands().filter(|command| command.matches(short)).count();
                let expected = usize::from(!["k", "ki", "kil"].contains(&short));
                assert_eq!(matching, expected, "{short}");
            }
        }
    }
}
