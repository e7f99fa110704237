//! Lines of a terminal: editing, history and completion by rustyline.
//!
//! Invariant: the history is in memory alone, nothing that was typed outlives the shell.

use std::io::{self, Write};

use rustyline::{
    Config, Context, Editor, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::MemHistory, validate::Validator,
};

use super::{command, command_table::commands, rpc::ClientError, shell::Lines};

/// The line editor.
pub(super) struct Terminal(Editor<Names, MemHistory>);

impl Terminal {
    pub(super) fn new() -> rustyline::Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(Names));
        Ok(Self(editor))
    }
}

impl Lines for Terminal {
    fn next(&mut self, prompt: &str, _: &mut dyn Write) -> Result<Option<String>, ClientError> {
        loop {
            match self.0.readline(prompt) {
                Ok(line) => return Ok(Some(line)),
                // The line is given up, not the shell.
                Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => {}
                // The editor has ended the line already.
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(e)) => return Err(ClientError::Input(e)),
                Err(e) => return Err(ClientError::Input(io::Error::other(e))),
            }
        }
    }
}

/// Completes names of commands.
struct Names;

impl Completer for Names {
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

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {}
impl Validator for Names {}
impl Helper for Names {}

/// Where the word that is being typed begins, and the commands that it can become: none unless it
/// is the first of its command.
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
        let of = |typed: &str| candidates(typed);
        assert_eq!(of("dis"), (0, vec!["disable ".to_owned()]));
        assert_eq!(of("group 2; ma"), (9, vec!["maxc ".to_owned()]));
        assert_eq!(of("r").1, ["reset ", "rr "]);
        assert_eq!(of("").1.len(), commands().count());
        assert!(of("disable 1").1.is_empty());
        assert!(of("nothing").1.is_empty());
    }
}
