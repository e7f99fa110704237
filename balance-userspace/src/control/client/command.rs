//! Parser of control commands: from the text that a user types to a request.
//!
//! Pure. Invariants: every command of the classic keeps its meaning, with these exceptions: `kill`
//! has no abbreviation, and `G.N` or a name stands for a channel of any group. A word where a
//! number belongs, a negative maximum and a word that the command does not use are errors.

use super::{
    command_table,
    render::{ChannelLabel, ReplyFormat},
};
use crate::cli::time;
use crate::control::protocol::InstanceCommand;
use crate::selection::{ChannelId, ChannelRef, names};

/// A command that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedCommand {
    /// A blank line.
    Empty,
    /// Leave the client.
    Quit,
    /// Print the commands.
    Help,
    /// Print the version.
    Version,
    /// Change the current group.
    Group(usize),
    /// End the instance.
    Kill,
    /// Send a request to the instance, and print its reply.
    Request {
        /// The command.
        command: InstanceCommand,
        /// How to print the reply.
        format: ReplyFormat,
    },
}

/// A mistake of the user, in the words of the classic. Nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The command is unknown, or an argument is missing, malformed or not used.
    #[error("syntax error")]
    Syntax,
    /// A number is out of range.
    #[error("value out of range")]
    OutOfRange,
    /// The channel number is out of range.
    #[error("no such channel {0}")]
    NoSuchChannel(ChannelLabel),
    /// The channel number is out of range, in the words of `assign`, `maxc` and `mrtg-*`.
    #[error("unknown channel")]
    UnknownChannel,
    /// The group number is out of range.
    #[error("unknown group")]
    UnknownGroup,
}

/// Splits a line into commands, at each `;`.
pub fn split(line: &str) -> impl Iterator<Item = &str> {
    line.split(';')
}

/// Parses one command; `group` is the current group.
///
/// # Errors
/// Every mistake that is recognisable without the instance.
pub fn parse(text: &str, group: usize) -> Result<ParsedCommand, CommandError> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let Some((&name, words)) = words.split_first() else { return Ok(ParsedCommand::Empty) };
    let command = command_table::find(name, words.first().copied()).ok_or(CommandError::Syntax)?;
    command.parse(&Arguments { words, group })
}

/// A line that helps to correct a mistake in a command.
pub(super) fn hint(text: &str, error: &CommandError) -> Option<String> {
    let name = text.split_ascii_whitespace().next()?;
    match error {
        CommandError::Syntax | CommandError::OutOfRange => Some(command_table::hint(name)),
        CommandError::NoSuchChannel(_)
        | CommandError::UnknownChannel
        | CommandError::UnknownGroup => None,
    }
}

/// The words behind the name of a command, and the current group.
pub(super) struct Arguments<'a> {
    words: &'a [&'a str],
    /// The current group.
    pub(super) group: usize,
}

impl Arguments<'_> {
    /// The number of words.
    pub(super) fn count(&self) -> usize {
        self.words.len()
    }

    /// The word at `index`.
    pub(super) fn word(&self, index: usize) -> Result<&str, CommandError> {
        self.words.get(index).copied().ok_or(CommandError::Syntax)
    }

    /// The number at `index`.
    pub(super) fn number(&self, index: usize) -> Result<i64, CommandError> {
        number(self.word(index)?).ok_or(CommandError::Syntax)
    }

    /// The channel as the user named it.
    pub(super) fn label(&self, index: usize) -> Result<ChannelLabel, CommandError> {
        Ok(ChannelLabel::parse(self.word(index)?))
    }

    /// A channel by number, by `G.N` or by name.
    pub(super) fn channel(&self, index: usize) -> Result<(ChannelRef, ChannelLabel), CommandError> {
        let label = self.label(index)?;
        match label.channel(self.group) {
            Some(channel) => Ok((channel, label)),
            None => Err(CommandError::NoSuchChannel(label)),
        }
    }

    /// A channel of a command that reports [`CommandError::UnknownChannel`].
    pub(super) fn known_channel(&self, index: usize) -> Result<ChannelRef, CommandError> {
        self.label(index)?.channel(self.group).ok_or(CommandError::UnknownChannel)
    }

    /// A channel as group and number in two words, or as `G.N` or by name in one word.
    pub(super) fn graphed_channel(&self) -> Result<ChannelRef, CommandError> {
        let (group, channel) = match self.words {
            [] => return Err(CommandError::Syntax),
            [word] => match ChannelLabel::parse(word) {
                ChannelLabel::Number { group: Some(group), channel } => (group, channel),
                ChannelLabel::Number { group: None, .. } => return Err(CommandError::Syntax),
                ChannelLabel::Name(name) => return Ok(ChannelRef::Name(name)),
            },
            [..] => (self.number(0)?, self.number(1)?),
        };
        let group = usize::try_from(group).map_err(|_| CommandError::UnknownGroup)?;
        let channel = usize::try_from(channel).map_err(|_| CommandError::UnknownChannel)?;
        Ok(ChannelId { group, channel }.into())
    }

    /// The time at `index` in seconds, if there is a word.
    pub(super) fn optional_seconds(
        &self,
        index: usize,
        max: u64,
    ) -> Result<Option<u64>, CommandError> {
        let Some(word) = self.words.get(index) else { return Ok(None) };
        match time::seconds(word) {
            Some(seconds) if seconds <= max => Ok(Some(seconds)),
            Some(_) => Err(CommandError::OutOfRange),
            None => Err(CommandError::Syntax),
        }
    }
}

impl ChannelLabel {
    fn parse(word: &str) -> Self {
        if !names::is_position(word) {
            return Self::Name(word.to_owned());
        }
        let (group, channel) = match word.split_once('.') {
            Some((group, channel)) => (number(group), channel),
            None => (None, word),
        };
        Self::Number { group, channel: number(channel).unwrap_or_default() }
    }

    /// The channel with this label, if the numbers are not negative.
    fn channel(&self, current: usize) -> Option<ChannelRef> {
        let (group, channel) = match self {
            Self::Number { group, channel } => (*group, *channel),
            Self::Name(name) => return Some(ChannelRef::Name(name.clone())),
        };
        let group = group.map_or(Some(current), |group| usize::try_from(group).ok())?;
        Some(ChannelId { group, channel: usize::try_from(channel).ok()? }.into())
    }
}

/// Reads a number with an optional sign. A number that is too large becomes the largest.
fn number(word: &str) -> Option<i64> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let magnitude = |n: i64, b| n.saturating_mul(10).saturating_add(i64::from(b - b'0'));
    is_number.then(|| sign * digits.bytes().fold(0, magnitude))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
