//! The arguments of a line: those of an instance, without the options that control one.
//!
//! Pure. Invariant: accepted words are accepted by the process that gets these words as arguments.

use std::ffi::OsString;

use clap::{ArgMatches, Command, FromArgMatches as _, error::ErrorKind};

use crate::cli::{
    args::{Args, Mode},
    usage_error,
};

/// Parses words by the definition of the command line.
///
/// # Errors
/// The mistake, in one line.
pub(super) fn matches(command: &mut Command, words: &[String]) -> Result<ArgMatches, String> {
    let line = std::iter::once("balance").chain(words.iter().map(String::as_str));
    let line: Vec<OsString> = line.map(Into::into).collect();
    command.try_get_matches_from_mut(&line).map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            "--help and --version have no place in a configuration file".to_owned()
        }
        _ => usage_error::describe(&e, command, &line),
    })
}

/// Converts parsed words.
///
/// # Errors
/// The mistake, in one line.
pub(super) fn args(matches: &ArgMatches) -> Result<Args, String> {
    let args = Args::from_arg_matches(matches).map_err(|error| error.to_string())?;
    if args.mode() != Mode::Serve {
        return Err("-c and -i have no place in a configuration file".to_owned());
    }
    if args.run_dir.as_ref().is_some_and(|path| path.is_relative()) {
        return Err("--run-dir must be an absolute path here".to_owned());
    }
    Ok(args)
}
