//! The command line: the arguments of one instance ([`Args`]), compatible with the classic, or a
//! verb that acts on all instances of a configuration file ([`Verb`]).
//!
//! Invariant: help, manual pages and completions come from [`command`], so they cannot differ.

pub mod args;
pub mod completion;
pub mod exit_status;
pub mod mistaken_port;
pub mod name;
pub mod operand;
mod server_settings;
pub(crate) mod similar;
pub mod time;
pub(crate) mod usage_error;
mod values;

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory as _, FromArgMatches as _, Subcommand, error::ErrorKind};

use crate::{
    cli::args::{Args, LogFormat},
    error::StartError,
};

/// The default configuration file of the verbs.
pub const CONFIG: &str = "/etc/balance/balance.conf";

/// An action on all instances of a configuration file.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start an instance for each line of the configuration file
    Start {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
        /// Stay in the foreground, for a service manager
        #[arg(short = 'f', long)]
        foreground: bool,
        /// Format of the log on standard error, in the foreground
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Stop all instances; connections may continue for the --grace time of their instance
    Stop {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
    },
    /// Check the configuration file, then stop and start all instances
    Restart {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
    },
    /// Apply the changes of the configuration file without dropping a connection; an invalid file
    /// changes nothing
    Reload {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
    },
    /// Replace the running program by the program on the disk, without refusing or dropping a
    /// connection
    Upgrade {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
    },
    /// Show the state of all instances, and what differs from the configuration file
    Status {
        /// The instances.
        #[command(flatten)]
        location: ServiceLocation,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the listeners as a monitoring plugin: one line with performance data, and exit code 0 OK,
    /// 1 WARNING, 2 CRITICAL or 3 UNKNOWN, within two seconds
    Health(HealthOptions),
    /// Check a configuration file; this opens no port and needs no privileges
    #[command(long_flag = "check-config")]
    Check(CheckOptions),
}

/// The options of the verb `health`.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthOptions {
    /// The listener: a port, a service or the name of an instance [default: all listeners]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// The instances.
    #[command(flatten)]
    pub location: ServiceLocation,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The options of the verb `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckOptions {
    /// The configuration file [default: the value of --config]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,

    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Check also whether this directory can have the control sockets; this creates nothing
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Do not resolve the names of servers
    #[arg(long)]
    pub no_dns: bool,

    /// Exit with code 78 on a warning too
    #[arg(long)]
    pub strict: bool,

    /// Print the instances with all their arguments, as a file without `default`, `set` and
    /// `include`
    #[arg(long)]
    pub print: bool,
}

/// The configuration file of a verb, and the run directory of its instances.
#[derive(Clone, Debug, clap::Args)]
pub struct ServiceLocation {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Directory of the control sockets [default: /run/balance, or $XDG_RUNTIME_DIR/balance without
    /// root]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// A parsed command line.
#[derive(Debug)]
pub enum Invocation {
    /// Run an instance, or control a running one.
    Instance(Box<Args>),
    /// Act on all instances of a configuration file.
    Verb(Verb),
    /// Print this text and exit: `--help` or `--version`.
    Print(String),
}

/// The definition of the whole command line.
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

/// Parses the arguments of an instance, without the program name.
///
/// # Errors
/// [`StartError::Usage`], also for the arguments of a verb.
pub(crate) fn parse_instance(words: Vec<String>) -> Result<Args, StartError> {
    match parse(std::iter::once("balance".to_owned()).chain(words).map(Into::into))? {
        Invocation::Instance(args) => Ok(*args),
        Invocation::Verb(_) | Invocation::Print(_) => {
            Err(usage("the arguments are not those of an instance"))
        }
    }
}

/// Parses a command line, program name first.
///
/// # Errors
/// [`StartError::Usage`], with the error in one line.
pub fn parse<I: IntoIterator<Item = OsString>>(line: I) -> Result<Invocation, StartError> {
    let line: Vec<OsString> = line.into_iter().collect();
    let parsed = command().try_get_matches_from(&line).and_then(|matches| {
        if matches.subcommand_name().is_some() {
            Verb::from_arg_matches(&matches).map(Invocation::Verb)
        } else {
            Args::from_arg_matches(&matches).map(|args| Invocation::Instance(Box::new(args)))
        }
    });
    match parsed {
        Ok(Invocation::Instance(args)) if command().find_subcommand(&args.port).is_some() => {
            Err(usage(&usage_error::verb_first(&args.port)))
        }
        Ok(Invocation::Instance(args)) => {
            args.checked().map(|args| Invocation::Instance(Box::new(args)))
        }
        Ok(other) => Ok(other),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Invocation::Print(e.render().to_string()))
        }
        Err(e) => Err(usage(&usage_error::describe(&e, &command(), &line))),
    }
}

/// Whether a command line is of the verb `health`, program name first.
pub fn is_health(line: impl IntoIterator<Item = OsString>) -> bool {
    line.into_iter().nth(1).is_some_and(|word| word == "health")
}

fn usage(text: &str) -> StartError {
    StartError::Usage(format!("{text} (try balance --help)"))
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
    fn the_definition_passes_the_checks_of_clap() {
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
    fn times_have_units() {
        let args = serve("-t 5s -T 30m --half-close-timeout 2h --grace 1d 25");
        assert_eq!((args.connect_timeout, args.idle_timeout), (5, Some(1800)));
        assert_eq!((args.half_close_timeout, args.grace), (7200, 86_400));
    }

    #[test]
    fn a_verb_comes_first_and_a_server_may_have_the_name_of_a_verb() {
        let config = |line: &str| match read(line) {
            Ok(Invocation::Verb(Verb::Start { location, .. } | Verb::Status { location, .. })) => {
                location.config.display().to_string()
            }
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(config("start"), CONFIG);
        assert_eq!(config("status --config a/b"), "a/b");
        assert_eq!(serve("25 start stop").channels, ["start", "stop"]);
        for line in ["check a", "--check-config a"] {
            assert!(matches!(
                read(line),
                Ok(Invocation::Verb(Verb::Check(CheckOptions { file: Some(file), .. }))) if file == *"a"
            ));
        }
    }
}
