//! The whole command line: an instance as the classic took it ([`Args`]), or a verb that acts on
//! all instances of a configuration file ([`Verb`]).
//!
//! Invariant: help, man pages and completions come from [`command`], so they cannot differ.

pub mod args;
pub mod completion;
pub mod exit_status;
pub mod operand;

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory as _, FromArgMatches as _, Subcommand, error::ErrorKind};

use crate::{
    cli::args::{Args, LogFormat},
    error::{self, StartError},
};

/// The configuration file that verbs act on when none is named.
pub const CONFIG: &str = "/etc/balance/balance.conf";

/// What is to be done with all instances of a configuration file.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start the instances of a configuration file, one for each of its lines
    Start {
        /// Which
        #[command(flatten)]
        place: ServiceLocation,
        /// Stay in the foreground, for a service manager
        #[arg(short = 'f', long)]
        foreground: bool,
        /// Form of the log on standard error, in the foreground
        #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Let connections end, each instance as long as its --grace says, and stop
    Stop {
        /// Which
        #[command(flatten)]
        place: ServiceLocation,
    },
    /// Check the configuration file, stop, start
    Restart {
        /// Which
        #[command(flatten)]
        place: ServiceLocation,
    },
    /// Read the configuration file again and change what runs, without dropping a connection; a
    /// file with a mistake changes nothing
    Reload {
        /// Which
        #[command(flatten)]
        place: ServiceLocation,
    },
    /// Show the instances
    Status {
        /// Which
        #[command(flatten)]
        place: ServiceLocation,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration file, without taking any port; needs no privileges
    #[command(long_flag = "check-config")]
    Check {
        /// The file [default: that of --config]
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Do not look names of servers up
        #[arg(long)]
        no_dns: bool,
    },
}

/// Which instances a verb is about, and where they are found.
#[derive(Clone, Debug, clap::Args)]
pub struct ServiceLocation {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Where the control sockets are [default: /run/balance, or $XDG_RUNTIME_DIR/balance without
    /// root]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// A command line that asks for something, or the text that answers it at once.
#[derive(Debug)]
pub enum Invocation {
    /// Serve, or talk to an instance.
    Instance(Box<Args>),
    /// Act on the instances of a file.
    Verb(Verb),
    /// `--help` or `--version`: print and be done.
    Print(String),
}

/// All that can be said on the command line.
pub fn command() -> clap::Command {
    let instance = Args::command();
    let about = instance.get_about().cloned().unwrap_or_default();
    let examples = instance.get_after_help().cloned().unwrap_or_default();
    Verb::augment_subcommands(instance)
        .about(about)
        .after_long_help(format!("{examples}\n\n{}", exit_status::help()))
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .disable_help_subcommand(true)
        .subcommand_help_heading("Verbs")
        .subcommand_value_name("VERB")
}

/// Parses a command line, program name first.
///
/// # Errors
/// [`StartError::Usage`] with what is wrong, in one line.
pub fn parse<I: IntoIterator<Item = OsString>>(line: I) -> Result<Invocation, StartError> {
    let parsed = command().try_get_matches_from(line).and_then(|matches| {
        if matches.subcommand_name().is_some() {
            Verb::from_arg_matches(&matches).map(Invocation::Verb)
        } else {
            Args::from_arg_matches(&matches).map(|args| Invocation::Instance(Box::new(args)))
        }
    });
    match parsed {
        Ok(Invocation::Instance(args)) if command().find_subcommand(&args.port).is_some() => {
            let what =
                format!("{0} comes first: balance {0} [OPTIONS] (try balance --help)", args.port);
            Err(StartError::Usage(what))
        }
        Ok(Invocation::Instance(args)) => {
            args.checked().map(|args| Invocation::Instance(Box::new(args)))
        }
        Ok(other) => Ok(other),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Invocation::Print(e.render().to_string()))
        }
        Err(e) => Err(StartError::Usage(format!("{} (try balance --help)", one_line(&e)))),
    }
}

/// The first paragraph of clap's message on one line.
pub(crate) fn one_line(clap: &clap::Error) -> String {
    let text = clap.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let words = words.join(" ");
    error::one_line(words.strip_prefix("error: ").unwrap_or(&words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Mode;

    fn read(line: &str) -> Result<Invocation, StartError> {
        parse(std::iter::once("balance").chain(line.split_whitespace()).map(Into::into))
    }

    fn serve(line: &str) -> Args {
        match read(line) {
            Ok(Invocation::Instance(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        command().debug_assert();
    }

    #[test]
    fn options_may_be_joined_and_may_follow_operands() {
        let args = serve("25 mx1 -ft7 ! mx2 -b 127.0.0.1");
        assert!(args.foreground);
        assert_eq!(args.connect_timeout, 7);
        assert_eq!(args.port, "25");
        assert_eq!(args.channels, ["mx1", "!", "mx2"]);
        assert_eq!(args.bind.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn the_last_of_a_repeated_option_counts() {
        assert_eq!(serve("-c show -c version 25").mode(), Mode::Command("version"));
        assert_eq!(serve("-t 3 -t 4 25").connect_timeout, 4);
    }

    #[test]
    fn a_verb_comes_first_and_a_server_may_have_its_name() {
        let config = |line: &str| match read(line) {
            Ok(Invocation::Verb(Verb::Start { place, .. } | Verb::Status { place, .. })) => {
                place.config.display().to_string()
            }
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(config("start"), CONFIG);
        assert_eq!(config("status --config a/b"), "a/b");
        assert_eq!(serve("25 start stop").channels, ["start", "stop"]);
        for line in ["check a", "--check-config a"] {
            assert!(matches!(
                read(line),
                Ok(Invocation::Verb(Verb::Check { file: Some(file), .. })) if file == *"a"
            ));
        }
    }

    #[test]
    fn a_mistake_is_one_line() {
        for line in [
            "",
            "-x 25",
            "-t 0 25",
            "-t x 25",
            "--datapath none 25",
            "--workers 0 25 a",
            "-T 0 25",
            "-c show",
            "-c show 25 a",
            "-i",
            "start 25",
            "-f start",
            "check a --config b",
            "status --jso",
        ] {
            let e = read(line).unwrap_err();
            assert_eq!(e.exit_code(), 64, "{line}");
            assert!(!e.to_string().contains('\n'), "{line}: {e}");
        }
    }
}
