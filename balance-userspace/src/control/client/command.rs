//! Parser of control commands: from the text that a user types to a request.
//!
//! Pure. Invariants: every command of the classic keeps its meaning, with these exceptions: `kill`
//! has no abbreviation, `G.N` names a channel of another group, any other word with a dot behind
//! digits is an error, and so is a negative maximum. Words behind the arguments of a command are
//! ignored, as in the classic.

use super::{
    command_table,
    render::{ChannelLabel, ReplyFormat},
};
use crate::control::protocol::InstanceCommand;
use crate::selection::ChannelId;

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
    /// The command is unknown, or an argument is missing or malformed.
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

/// Splits a line into commands, at each `;` before a blank or the end of the line.
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

/// The words behind the name of a command, and the current group.
pub(super) struct Arguments<'a> {
    words: &'a [&'a str],
    /// The current group.
    pub(super) group: usize,
}

impl Arguments<'_> {
    /// The word at `index`.
    pub(super) fn word(&self, index: usize) -> Result<&str, CommandError> {
        self.words.get(index).copied().ok_or(CommandError::Syntax)
    }

    /// The number that the word at `index` begins with.
    pub(super) fn number(&self, index: usize) -> Result<i64, CommandError> {
        self.word(index).map(leading_number)
    }

    /// The channel as the user named it.
    pub(super) fn label(&self, index: usize) -> Result<ChannelLabel, CommandError> {
        ChannelLabel::parse(self.word(index)?)
    }

    /// A channel as in the classic: `G.N`, or the number that the word begins with.
    pub(super) fn channel(&self, index: usize) -> Result<(ChannelId, ChannelLabel), CommandError> {
        let label = self.label(index)?;
        label.id(self.group).map(|id| (id, label)).ok_or(CommandError::NoSuchChannel(label))
    }

    /// A channel of a command that reports [`CommandError::UnknownChannel`].
    pub(super) fn known_channel(&self, index: usize) -> Result<ChannelId, CommandError> {
        self.label(index)?.id(self.group).ok_or(CommandError::UnknownChannel)
    }

    /// A channel of a command that the classic lacks. A word that is no number is an error, and not
    /// channel 0.
    pub(super) fn strict_channel(
        &self,
        index: usize,
    ) -> Result<(ChannelId, ChannelLabel), CommandError> {
        let word = self.word(index)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !word.split('.').all(is_number) || word.split('.').count() > 2 {
            return Err(CommandError::Syntax);
        }
        self.channel(index)
    }

    /// A channel as group and number in two words, or as `G.N` in one word.
    pub(super) fn graphed_channel(&self) -> Result<ChannelId, CommandError> {
        let (group, channel) = match self.words {
            [] => return Err(CommandError::Syntax),
            [word] => match ChannelLabel::parse(word)? {
                ChannelLabel { group: Some(group), channel } => (group, channel),
                ChannelLabel { group: None, .. } => return Err(CommandError::Syntax),
            },
            [group, channel, ..] => (leading_number(group), leading_number(channel)),
        };
        let group = usize::try_from(group).map_err(|_| CommandError::UnknownGroup)?;
        let channel = usize::try_from(channel).map_err(|_| CommandError::UnknownChannel)?;
        Ok(ChannelId { group, channel })
    }

    /// The number of seconds at `index`, if there is a word.
    pub(super) fn optional_seconds(
        &self,
        index: usize,
        max: u64,
    ) -> Result<Option<u64>, CommandError> {
        let Some(word) = self.words.get(index) else { return Ok(None) };
        if !word.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CommandError::Syntax);
        }
        match word.parse() {
            Ok(seconds) if seconds <= max => Ok(Some(seconds)),
            _ => Err(CommandError::OutOfRange),
        }
    }
}

impl ChannelLabel {
    fn parse(word: &str) -> Result<Self, CommandError> {
        let Some((group, channel)) = word.split_once('.').filter(|(group, _)| is_number(group))
        else {
            return Ok(Self { group: None, channel: leading_number(word) });
        };
        // A typing mistake behind the dot must not turn the group number into a channel number.
        if channel.is_empty() || !channel.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CommandError::Syntax);
        }
        Ok(Self { group: Some(leading_number(group)), channel: leading_number(channel) })
    }

    /// The channel with this label, if the numbers are not negative.
    fn id(self, current: usize) -> Option<ChannelId> {
        let group = self.group.map_or(Some(current), |group| usize::try_from(group).ok())?;
        Some(ChannelId { group, channel: usize::try_from(self.channel).ok()? })
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The number that a word begins with, as atoi(3) reads it; 0 if it begins with none.
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
