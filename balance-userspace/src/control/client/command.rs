//! A command as it is typed → what to do: ask the running balance, or something of the client's.
//!
//! Pure. Invariant: whatever the classic understood means the same here, except that `kill` is
//! never abbreviated, that `N.M` is a channel of another group, a number with any other dot none at
//! all, and that a maximum is not negative;
//! commands that the classic did not have come last, so that they take no abbreviation away.

use super::render::{ChannelLabel, ReplyFormat};
use crate::control::protocol::InstanceCommand;
use crate::selection::{ChannelId, Method};

/// Groups that the shell can change to; those after it are reached as `G.N`.
pub const GROUPS: usize = 32;

/// The longest wait of `drain`, in seconds.
const LONGEST_DRAIN: u64 = 31_536_000;

/// All commands, in the order in which an abbreviation is looked for.
pub const NAMES: [&str; 20] = [
    "quit",
    "show",
    "help",
    "kill",
    "disable",
    "group",
    "reset",
    "enable",
    "create",
    "assign",
    "maxc",
    "mrtg-bytes",
    "mrtg-conns",
    "version",
    "hash",
    "rr",
    "sessions",
    "drain",
    "drop",
    "stats",
];

/// What a command means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedCommand {
    /// Nothing was typed.
    Empty,
    /// Leave.
    Quit,
    /// Show the commands.
    Help,
    /// Show the version.
    Version,
    /// Make this the current group.
    Group(usize),
    /// End the running balance.
    Kill,
    /// Ask the running balance, and show its reply.
    Request {
        /// For what.
        command: InstanceCommand,
        /// How to show it.
        format: ReplyFormat,
    },
}

/// Why a command is not even sent. The user's mistake, told in the classic's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// An unknown command, or one without its arguments.
    #[error("syntax error")]
    Syntax,
    /// A number that cannot be.
    #[error("value out of range")]
    OutOfRange,
    /// A channel number that cannot be.
    #[error("no such channel {0}")]
    NoSuchChannel(ChannelLabel),
    /// The same, in the words of other commands.
    #[error("unknown channel")]
    UnknownChannel,
    /// A group number that cannot be.
    #[error("unknown group")]
    UnknownGroup,
}

/// The commands of a line: separated by `;` that a blank or the end of the line follows.
pub fn split(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let ends = |i: usize| text[i + 1..].bytes().next().is_none_or(|b| b.is_ascii_whitespace());
        let end = text.match_indices(';').map(|(i, _)| i).find(|i| ends(*i));
        rest = end.map(|i| &text[i + 1..]);
        Some(end.map_or(text, |i| &text[..i]))
    })
}

/// Reads one command; `group` is the current one.
///
/// # Errors
/// What is wrong with it, as far as that can be told without asking.
pub fn parse(text: &str, group: usize) -> Result<ParsedCommand, CommandError> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let Some((&first, args)) = words.split_first() else { return Ok(ParsedCommand::Empty) };
    // Words after those that a command takes are ignored, as they always were.
    let arg = |i: usize| args.get(i).copied().ok_or(CommandError::Syntax);
    match name(first).ok_or(CommandError::Syntax)? {
        "quit" => Ok(ParsedCommand::Quit),
        "help" => Ok(ParsedCommand::Help),
        "version" => Ok(ParsedCommand::Version),
        "kill" => Ok(ParsedCommand::Kill),
        "show" if args.first() == Some(&"--json") => {
            ask(InstanceCommand::Show, ReplyFormat::TableJson)
        }
        "show" => ask(InstanceCommand::Show, ReplyFormat::Table),
        "stats" => ask(InstanceCommand::Stats, ReplyFormat::Stats),
        "sessions" => ask(InstanceCommand::Sessions, ReplyFormat::Sessions),
        "group" => match usize::try_from(leading_number(arg(0)?)) {
            Ok(group) if group < GROUPS => Ok(ParsedCommand::Group(group)),
            _ => Err(CommandError::OutOfRange),
        },
        "disable" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(InstanceCommand::Disable(id), ReplyFormat::Disable(label))
        }
        "enable" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(InstanceCommand::Enable(id), ReplyFormat::Enable(label))
        }
        "reset" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(InstanceCommand::Reset(id), ReplyFormat::Reset(label))
        }
        "create" => {
            let (host, port) = (arg(0)?.to_owned(), arg(1)?.to_owned());
            ask(InstanceCommand::Create { group, host, port }, ReplyFormat::Create)
        }
        "assign" => {
            let (host, port) = (arg(1)?.to_owned(), arg(2)?.to_owned());
            let id = known_channel(arg(0)?, group)?;
            ask(InstanceCommand::Assign { id, host, port }, ReplyFormat::Assign)
        }
        "maxc" => {
            let (which, max) = (arg(0)?, leading_number(arg(1)?));
            let id = known_channel(which, group)?;
            let max = u32::try_from(max).map_err(|_| CommandError::OutOfRange)?;
            let label = ChannelLabel::read(which)?;
            ask(InstanceCommand::SetMax { id, max }, ReplyFormat::SetMax { channel: label, max })
        }
        "hash" => method(group, Method::Hash),
        "rr" => method(group, Method::RoundRobin),
        "mrtg-bytes" => {
            let id = graphed(args)?;
            ask(InstanceCommand::Channel(id), ReplyFormat::MrtgBytes(id))
        }
        "mrtg-conns" => {
            let id = graphed(args)?;
            ask(InstanceCommand::Channel(id), ReplyFormat::MrtgConns(id))
        }
        "drain" => {
            let (id, label) = strict_channel(arg(0)?, group)?;
            let seconds = args.get(1).map(|text| seconds(text)).transpose()?;
            ask(InstanceCommand::Drain { id, seconds }, ReplyFormat::Drain(label))
        }
        "drop" => {
            let (id, label) = strict_channel(arg(0)?, group)?;
            ask(InstanceCommand::Drop(id), ReplyFormat::Drop(label))
        }
        _ => Err(CommandError::Syntax),
    }
}

/// The command that this is an abbreviation of.
fn name(word: &str) -> Option<&'static str> {
    if word == "?" {
        return Some("help");
    }
    let found = NAMES.into_iter().find(|name| name.starts_with(word))?;
    // On purpose not by abbreviation: one letter must not end everything.
    (found != "kill" || word == "kill").then_some(found)
}

fn ask(command: InstanceCommand, format: ReplyFormat) -> Result<ParsedCommand, CommandError> {
    Ok(ParsedCommand::Request { command, format })
}

fn method(group: usize, method: Method) -> Result<ParsedCommand, CommandError> {
    ask(InstanceCommand::SetMethod { group, method }, ReplyFormat::Method { group, method })
}

/// A channel as the classic's commands take it: `G.N`, or whatever number the word begins with.
fn channel(word: &str, group: usize) -> Result<(ChannelId, ChannelLabel), CommandError> {
    let label = ChannelLabel::read(word)?;
    label.id(group).map(|id| (id, label)).ok_or(CommandError::NoSuchChannel(label))
}

/// The same for commands that say it in other words.
fn known_channel(word: &str, group: usize) -> Result<ChannelId, CommandError> {
    ChannelLabel::read(word)?.id(group).ok_or(CommandError::UnknownChannel)
}

/// The same for commands without a past, which need not take a slip for channel 0.
fn strict_channel(word: &str, group: usize) -> Result<(ChannelId, ChannelLabel), CommandError> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !word.split('.').all(number) || word.split('.').count() > 2 {
        return Err(CommandError::Syntax);
    }
    channel(word, group)
}

/// A channel as group and number in two words, or as `G.N` in one.
fn graphed(args: &[&str]) -> Result<ChannelId, CommandError> {
    let (group, channel) = match args {
        [] => return Err(CommandError::Syntax),
        [word] => match ChannelLabel::read(word)? {
            ChannelLabel { group: Some(group), channel } => (group, channel),
            ChannelLabel { group: None, .. } => return Err(CommandError::Syntax),
        },
        [group, channel, ..] => (leading_number(group), leading_number(channel)),
    };
    let group = usize::try_from(group).map_err(|_| CommandError::UnknownGroup)?;
    let channel = usize::try_from(channel).map_err(|_| CommandError::UnknownChannel)?;
    Ok(ChannelId { group, channel })
}

fn seconds(text: &str) -> Result<u64, CommandError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CommandError::Syntax);
    }
    match text.parse() {
        Ok(seconds) if seconds <= LONGEST_DRAIN => Ok(seconds),
        _ => Err(CommandError::OutOfRange),
    }
}

impl ChannelLabel {
    fn read(word: &str) -> Result<Self, CommandError> {
        let Some((group, channel)) = word.split_once('.').filter(|(group, _)| is_number(group))
        else {
            return Ok(Self { group: None, channel: leading_number(word) });
        };
        // With a slip behind the dot, the number before it would be a channel of another group.
        if channel.is_empty() || !channel.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CommandError::Syntax);
        }
        Ok(Self { group: Some(leading_number(group)), channel: leading_number(channel) })
    }

    /// What it names, if a channel can have this name.
    fn id(self, current: usize) -> Option<ChannelId> {
        let group = self.group.map_or(Some(current), |group| usize::try_from(group).ok())?;
        Some(ChannelId { group, channel: usize::try_from(self.channel).ok()? })
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The number that a word begins with, as atoi(3) reads it: 0 if it begins with none.
fn leading_number(word: &str) -> i64 {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let digits = digits.bytes().take_while(u8::is_ascii_digit);
    sign * digits.fold(0_i64, |n, b| n.saturating_mul(10).saturating_add(i64::from(b - b'0')))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
