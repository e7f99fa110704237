//! Default options: `default OPTIONS` in a configuration file.
//!
//! Pure. Invariants:
//! - An option of a line has precedence over the default of the same option.
//! - Equal defaults give equal arguments, whatever their order in the file is.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{Arg, ArgMatches, Command, CommandFactory as _, parser::ValueSource};

use super::arguments;
use crate::cli::args::Args;

/// The default options for the lines below.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    /// The words of each option, by the identity that clap gives to the option.
    options: BTreeMap<String, Vec<String>>,
    /// Whether a line with defaults has a mistake.
    pub(super) has_mistake: bool,
}

impl Defaults {
    /// Adds the options after the word `default`. Without options all defaults are removed.
    ///
    /// # Errors
    /// The mistake in the options.
    pub(super) fn add(&mut self, words: &[String]) -> Result<(), String> {
        if words.is_empty() {
            *self = Self::default();
            return Ok(());
        }
        let added = Self::options(words);
        self.has_mistake |= added.is_err();
        self.options.extend(added?);
        Ok(())
    }

    fn options(words: &[String]) -> Result<Vec<(String, Vec<String>)>, String> {
        // Not `mut_arg`: it would change the order of the operands.
        let mut command = Args::command().mut_args(|arg| arg.required(false));
        let matches = arguments::matches(&mut command, words)?;
        if let Some(operand) = matches.get_one::<String>("port") {
            return Err(format!("{operand}: default takes only options"));
        }
        let with_port = [words, &["1".to_owned()]].concat();
        arguments::args(&arguments::matches(&mut Args::command(), &with_port)?)?;
        Ok(given(&command, &matches).filter_map(|arg| argument(arg, &matches)).collect())
    }

    /// The arguments of a line that has no option of its own; `None` if a default has a mistake.
    pub(super) fn args(&self) -> Option<Args> {
        let words: Vec<_> =
            self.options.values().flatten().cloned().chain(["1".to_owned()]).collect();
        let matches = arguments::matches(&mut Args::command(), &words).ok();
        matches.filter(|_| !self.has_mistake).and_then(|matches| arguments::args(&matches).ok())
    }

    /// The arguments for a line with these arguments of its own.
    pub(super) fn apply(&self, own: &ArgMatches) -> impl Iterator<Item = String> {
        let is_own = |id: &str| own.value_source(id) == Some(ValueSource::CommandLine);
        self.options.iter().filter(move |(id, _)| !is_own(id)).flat_map(|(_, words)| words.clone())
    }
}

/// The arguments that are on the command line.
fn given<'a>(command: &'a Command, matches: &'a ArgMatches) -> impl Iterator<Item = &'a Arg> {
    let is_given =
        |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    command.get_arguments().filter(is_given)
}

/// The words of an option, with its identity.
fn argument(arg: &Arg, matches: &ArgMatches) -> Option<(String, Vec<String>)> {
    let (id, long) = (arg.get_id().as_str(), arg.get_long()?);
    if !arg.get_action().takes_values() {
        return Some((id.to_owned(), vec![format!("--{long}")]));
    }
    let value: OsString = matches.get_raw(id)?.next_back()?.to_owned();
    let value = value.to_string_lossy().into_owned();
    // A value that begins with a dash would be another option.
    let words = match value.starts_with('-') {
        true => vec![format!("--{long}={value}")],
        false => vec![format!("--{long}"), value],
    };
    Some((id.to_owned(), words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn applied(defaults: &[&str], line: &str) -> String {
        let mut all = Defaults::default();
        defaults.iter().for_each(|text| all.add(&words(text)).unwrap());
        let own = arguments::matches(&mut Args::command(), &words(line)).unwrap();
        all.apply(&own).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_last_default_counts_unless_the_line_has_the_option() {
        assert_eq!(
            applied(&["-t5 -T 7", "-at 6"], "25 a"),
            "--autodisable --connect-timeout 6 --idle-timeout 7"
        );
        assert_eq!(applied(&["-t 5 -T 7"], "25 a -T 8"), "--connect-timeout 5");
        assert_eq!(applied(&["--user=-x"], "25 a"), "--user=-x");
        assert_eq!(applied(&["-t 5"], "25 -ft6 a"), "");
        assert_eq!(applied(&["-t 5", ""], "25 a"), "");
        assert_eq!(applied(&["--user x -b ::1"], "25"), applied(&["-b ::1", "--user x"], "25"));
    }

    #[test]
    fn every_option_has_a_long_name() {
        for arg in Args::command().get_arguments().filter(|arg| !arg.is_positional()) {
            assert!(arg.get_long().is_some(), "{arg}");
        }
    }

    #[test]
    fn only_options_of_an_instance_have_a_default() {
        for (text, why) in [
            ("25", "25: default takes only options"),
            ("-t 5 25 a", "25: default takes only options"),
            ("-t x", "-t x: expected"),
            ("-x", "-x: unknown option"),
            ("-c show", "-c and -i have no place"),
            ("--help", "--help and --version have no place"),
            ("--run-dir here", "--run-dir must be an absolute path"),
        ] {
            let mut defaults = Defaults::default();
            let found = defaults.add(&words(text)).unwrap_err();
            assert!(found.starts_with(why) && defaults.has_mistake, "{text}: {found}");
        }
    }
}
