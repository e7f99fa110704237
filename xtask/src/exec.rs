//! Running commands.
//!
//! Invariant: a failing command causes an error with the command line and the exit status.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Prints a command and runs it on this terminal.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output. Its standard error becomes part of the error if
/// the command fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}: {}", output.status, why.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` does not print text"))
}

/// Returns the command line, quoted for a shell, without environment variables.
pub(crate) fn line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .map(|word| match word.is_empty() || word.contains([' ', '"', '\'', '!', '*', '$']) {
            true => format!("'{}'", word.replace('\'', r"'\''")),
            false => word.into_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_its_arguments_and_status() {
        let error = exec(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = exec(&mut Command::new("/nowhere/at-all")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nowhere/at-all`");
    }

    #[test]
    fn an_error_contains_the_standard_error_of_the_command() {
        let error =
            output(Command::new("sh").args(["-c", "echo no such thing >&2; false"])).unwrap_err();
        assert!(error.to_string().ends_with("exit status: 1: no such thing"), "{error}");
    }

    #[test]
    fn a_printed_command_can_be_typed_again() {
        let mut command = Command::new("balance");
        command.args(["-f", "!", "", "it's"]);
        assert_eq!(line(&command), r"balance -f '!' '' 'it'\''s'");
    }
}
