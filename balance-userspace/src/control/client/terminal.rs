//! Lines of a terminal, with editing, history and completion by rustyline.
//!
//! Invariant: the history stays in memory and ends with the shell.

use std::io::{self, Write};

use rustyline::{
    Config, Context, Editor, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::MemHistory, validate::Validator,
};

use super::{
    command_table::commands,
    rpc::ClientError,
    shell::LineSource,
    unfinished::{self, Expected, Unfinished},
};
use crate::error::one_line;

/// The line editor.
pub(super) struct Terminal(Editor<CommandCompleter, MemHistory>);

impl Terminal {
    /// Makes an editor that completes these names of servers.
    pub(super) fn new(servers: ServerNames) -> rustyline::Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(CommandCompleter(servers)));
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

/// Names of servers, looked up at each completion.
type ServerNames = Box<dyn Fn() -> Vec<String>>;

/// Completes the names of commands and of servers.
struct CommandCompleter(ServerNames);

impl Completer for CommandCompleter {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(&line[..pos], &self.0))
    }
}

impl Hinter for CommandCompleter {
    type Hint = String;
}

impl Highlighter for CommandCompleter {}
impl Validator for CommandCompleter {}
impl Helper for CommandCompleter {}

/// Returns the start of the last word, and the words that it can become.
fn candidates(typed: &str, servers: &dyn Fn() -> Vec<String>) -> (usize, Vec<String>) {
    let Some(Unfinished { before, word, expected }) = unfinished::of(typed) else {
        return (typed.len(), Vec::new());
    };
    let words = match expected {
        Expected::Command => commands().map(|command| command.name.to_owned()).collect(),
        Expected::Server => servers(),
    };
    let words = words.into_iter().filter(|name| name.starts_with(word));
    // A name of another process may have control characters.
    (before.len(), words.map(|name| one_line(&name) + " ").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_servers_are_completed() {
        let candidates =
            |line| candidates(line, &|| vec!["mx1".to_owned(), "mx2".to_owned(), "x".to_owned()]);
        assert_eq!(candidates("dis"), (0, vec!["disable ".to_owned()]));
        assert_eq!(candidates("group 2; ma"), (9, vec!["maxc ".to_owned()]));
        assert_eq!(candidates("r").1, ["reset ", "rr "]);
        assert_eq!(candidates("").1.len(), commands().count());
        assert_eq!(candidates("disable m"), (8, vec!["mx1 ".to_owned(), "mx2 ".to_owned()]));
        assert!(candidates("disable 1").1.is_empty());
        assert!(candidates("show m").1.is_empty());
        assert!(candidates("nothing").1.is_empty());
    }
}
