//! A command as it is typed → what to do: ask the running balance, or something of the client's.
//!
//! Pure. Invariant: whatever the classic understood means the same here, except that `kill` is
//! never abbreviated, that `N.M` is a channel of another group, a number with any other dot none at
//! all, and that a maximum is not negative;
//! commands that the classic did not have come last, so that they take no abbreviation away.

use super::render::{Label, Render};
use crate::control::protocol::Command;
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
pub enum Parsed {
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
    Ask {
        /// For what.
        command: Command,
        /// How to show it.
        render: Render,
    },
}

/// Why a command is not even sent. The user's mistake, told in the classic's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// An unknown command, or one without its arguments.
    #[error("syntax error")]
    Syntax,
    /// A number that cannot be.
    #[error("value out of range")]
    OutOfRange,
    /// A channel number that cannot be.
    #[error("no such channel {0}")]
    NoSuchChannel(Label),
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
pub fn parse(text: &str, group: usize) -> Result<Parsed, Wrong> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let Some((&first, args)) = words.split_first() else { return Ok(Parsed::Empty) };
    // Words after those that a command takes are ignored, as they always were.
    let arg = |i: usize| args.get(i).copied().ok_or(Wrong::Syntax);
    match name(first).ok_or(Wrong::Syntax)? {
        "quit" => Ok(Parsed::Quit),
        "help" => Ok(Parsed::Help),
        "version" => Ok(Parsed::Version),
        "kill" => Ok(Parsed::Kill),
        "show" if args.first() == Some(&"--json") => ask(Command::Show, Render::TableJson),
        "show" => ask(Command::Show, Render::Table),
        "stats" => ask(Command::Stats, Render::Stats),
        "sessions" => ask(Command::Sessions, Render::Sessions),
        "group" => match usize::try_from(leading_number(arg(0)?)) {
            Ok(group) if group < GROUPS => Ok(Parsed::Group(group)),
            _ => Err(Wrong::OutOfRange),
        },
        "disable" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(Command::Disable(id), Render::Disable(label))
        }
        "enable" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(Command::Enable(id), Render::Enable(label))
        }
        "reset" => {
            let (id, label) = channel(arg(0)?, group)?;
            ask(Command::Reset(id), Render::Reset(label))
        }
        "create" => {
            let (host, port) = (arg(0)?.to_owned(), arg(1)?.to_owned());
            ask(Command::Create { group, host, port }, Render::Create)
        }
        "assign" => {
            let (host, port) = (arg(1)?.to_owned(), arg(2)?.to_owned());
            let id = known_channel(arg(0)?, group)?;
            ask(Command::Assign { id, host, port }, Render::Assign)
        }
        "maxc" => {
            let (which, max) = (arg(0)?, leading_number(arg(1)?));
            let id = known_channel(which, group)?;
            let max = u32::try_from(max).map_err(|_| Wrong::OutOfRange)?;
            let label = Label::read(which)?;
            ask(Command::SetMax { id, max }, Render::SetMax { channel: label, max })
        }
        "hash" => method(group, Method::Hash),
        "rr" => method(group, Method::RoundRobin),
        "mrtg-bytes" => {
            let id = graphed(args)?;
            ask(Command::Channel(id), Render::MrtgBytes(id))
        }
        "mrtg-conns" => {
            let id = graphed(args)?;
            ask(Command::Channel(id), Render::MrtgConns(id))
        }
        "drain" => {
            let (id, label) = strict_channel(arg(0)?, group)?;
            let seconds = args.get(1).map(|text| seconds(text)).transpose()?;
            ask(Command::Drain { id, seconds }, Render::Drain(label))
        }
        "drop" => {
            let (id, label) = strict_channel(arg(0)?, group)?;
            ask(Command::Drop(id), Render::Drop(label))
        }
        _ => Err(Wrong::Syntax),
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

fn ask(command: Command, render: Render) -> Result<Parsed, Wrong> {
    Ok(Parsed::Ask { command, render })
}

fn method(group: usize, method: Method) -> Result<Parsed, Wrong> {
    ask(Command::SetMethod { group, method }, Render::Method { group, method })
}

/// A channel as the classic's commands take it: `G.N`, or whatever number the word begins with.
fn channel(word: &str, group: usize) -> Result<(ChannelId, Label), Wrong> {
    let label = Label::read(word)?;
    label.id(group).map(|id| (id, label)).ok_or(Wrong::NoSuchChannel(label))
}

/// The same for commands that say it in other words.
fn known_channel(word: &str, group: usize) -> Result<ChannelId, Wrong> {
    Label::read(word)?.id(group).ok_or(Wrong::UnknownChannel)
}

/// The same for commands without a past, which need not take a slip for channel 0.
fn strict_channel(word: &str, group: usize) -> Result<(ChannelId, Label), Wrong> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !word.split('.').all(number) || word.split('.').count() > 2 {
        return Err(Wrong::Syntax);
    }
    channel(word, group)
}

/// A channel as group and number in two words, or as `G.N` in one.
fn graphed(args: &[&str]) -> Result<ChannelId, Wrong> {
    let (group, channel) = match args {
        [] => return Err(Wrong::Syntax),
        [word] => match Label::read(word)? {
            Label { group: Some(group), channel } => (group, channel),
            Label { group: None, .. } => return Err(Wrong::Syntax),
        },
        [group, channel, ..] => (leading_number(group), leading_number(channel)),
    };
    let group = usize::try_from(group).map_err(|_| Wrong::UnknownGroup)?;
    let channel = usize::try_from(channel).map_err(|_| Wrong::UnknownChannel)?;
    Ok(ChannelId { group, channel })
}

fn seconds(text: &str) -> Result<u64, Wrong> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Wrong::Syntax);
    }
    match text.parse() {
        Ok(seconds) if seconds <= LONGEST_DRAIN => Ok(seconds),
        _ => Err(Wrong::OutOfRange),
    }
}

impl Label {
    fn read(word: &str) -> Result<Self, Wrong> {
        let Some((group, channel)) = word.split_once('.').filter(|(group, _)| is_number(group))
        else {
            return Ok(Self { group: None, channel: leading_number(word) });
        };
        // With a slip behind the dot, the number before it would be a channel of another group.
        if channel.is_empty() || !channel.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Wrong::Syntax);
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
