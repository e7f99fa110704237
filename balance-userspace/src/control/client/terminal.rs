//! Lines of a terminal, with editing, history and completion by rustyline.
//!
//! Invariant: the history stays in memory and ends with the shell.

use std::io::{self, Write};

use rustyline::{
    Config, Context, Editor, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::MemHistory, validate::Validator,
};

use super::{command, command_table::commands, rpc::ClientError, shell::LineSource};

/// The line editor.
pub(super) struct Terminal(Editor<CommandCompleter, MemHistory>);

impl Terminal {
    pub(super) fn new() -> rustyline::Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(CommandCompleter));
        Ok(Self(editor))
    }
}

impl LineSource for Terminal {
    fn next_line(
        &mut self,
        prompt: &str,
        _: &mut dyn Write,
    ) -> Result<Option<String>, ClientError> {
        loop {
            match self.0.readline(prompt) {
                Ok(line) => return Ok(Some(line)),
                // Ctrl-C discards the line and keeps the shell.
                Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => {}
                // The editor has printed the newline.
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(e)) => return Err(ClientError::Input(e)),
                Err(e) => return Err(ClientError::Input(io::Error::other(e))),
            }
        }
    }
}

/// Completes the names of commands.
struct CommandCompleter;

impl Completer for CommandCompleter {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(&line[..pos]))
    }
}

impl Hinter for CommandCompleter {
    type Hint = String;
}

impl Highlighter for CommandCompleter {}
impl Validator for CommandCompleter {}
impl Helper for CommandCompleter {}

/// Returns the start of the last word, and the commands that it can become. Only the first word of
/// a command has candidates.
fn candidates(typed: &str) -> (usize, Vec<String>) {
    let text = command::split(typed).last().unwrap_or_default();
    let word = text.trim_ascii_start();
    let names = commands().map(|command| command.name).filter(|name| name.starts_with(word));
    (typed.len() - word.len(), names.map(|name| format!("{name} ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_each_command_is_completed() {
        assert_eq!(candidates("dis"), (0, vec!["disable ".to_owned()]));
        assert_eq!(candidates("group 2; ma"), (9, vec!["maxc ".to_owned()]));
        assert_eq!(candidates("r").1, ["reset ", "rr "]);
        assert_eq!(candidates("").1.len(), commands().count());
        assert!(candidates("disable 1").1.is_empty());
        assert!(candidates("nothing").1.is_empty());
    }
}
