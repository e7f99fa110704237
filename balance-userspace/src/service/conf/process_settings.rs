//! The settings that belong to the process, and not to one listener.
//!
//! Pure. Invariant: all lines of a parsed file have equal process-wide settings.

use std::path::PathBuf;

use clap::ValueEnum as _;

use super::{Conf, Line};
use crate::cli::args::{Args, Datapath, LogFormat};

/// The settings that all lines of a file have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Number of worker threads; `None` for one on each processor.
    pub workers: Option<u16>,
    /// The user after the start.
    pub user: Option<String>,
    /// The group that may read through the control sockets.
    pub control_group: Option<String>,
    /// The datapath.
    pub datapath: Datapath,
    /// The run directory; `None` for the directory of the supervisor.
    pub run_dir: Option<PathBuf>,
    /// Whether the log has every session.
    pub debug: bool,
    /// The form of the log.
    pub log_format: LogFormat,
}

impl ProcessSettings {
    /// The process-wide settings of these arguments.
    pub fn of(args: &Args) -> Self {
        Self {
            workers: args.workers,
            user: args.user.clone(),
            control_group: args.control_group.clone(),
            datapath: args.datapath,
            run_dir: args.run_dir.clone(),
            debug: args.debug,
            log_format: args.log_format,
        }
    }

    /// The options as words, in a fixed order. An option without a value is `None` if the option is
    /// missing.
    fn options(&self) -> [(&'static str, Option<String>); 7] {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned())
        };
        [
            ("--workers", self.workers.map(|workers| workers.to_string())),
            ("--user", self.user.clone()),
            ("--control-group", self.control_group.clone()),
            ("--datapath", name(self.datapath.to_possible_value())),
            ("--run-dir", self.run_dir.as_ref().map(|dir| dir.display().to_string())),
            ("--debug", self.debug.then(String::new)),
            ("--log-format", name(self.log_format.to_possible_value())),
        ]
    }
}

impl Conf {
    /// The process-wide settings of the lines. Without lines they are those of the defaults at the
    /// end of the file, and `None` if a default has a mistake.
    pub fn process_settings(&self) -> Option<ProcessSettings> {
        let first = self.lines.first().map(|line| ProcessSettings::of(&line.args));
        first.or_else(|| self.defaults.clone())
    }
}

/// Compares the process-wide settings of a line with those of a line above.
///
/// # Errors
/// The mistake, which names the option and the other line.
pub(super) fn check(args: &Args, first: &Line) -> Result<(), String> {
    let (own, others) =
        (ProcessSettings::of(args).options(), ProcessSettings::of(&first.args).options());
    let differing = own.into_iter().zip(others).find(|(own, other)| own != other);
    let Some(((option, own), (_, other))) = differing else { return Ok(()) };
    let with = |value: Option<String>| match value {
        Some(value) => format!("{option} {value}").trim_end().to_owned(),
        None => format!("no {option}"),
    };
    Err(format!(
        "{} here and {} at {}: one process runs all lines",
        with(own),
        with(other),
        first.position
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        super::{NoFiles, read},
        *,
    };

    fn parsed(text: &str) -> Conf {
        read(Path::new("x"), text, &|_| None, &NoFiles)
    }

    #[test]
    fn a_line_that_contradicts_is_a_mistake() {
        for (options, first, why) in [
            ("--workers 3", "--workers 2", "--workers 3 here and --workers 2 at x:1"),
            ("", "--workers 2", "no --workers here and --workers 2 at x:1"),
            ("--user y", "", "--user y here and no --user at x:1"),
            ("", "--control-group y", "no --control-group here and --control-group y at x:1"),
            ("", "--datapath relay", "--datapath auto here and --datapath relay at x:1"),
            ("--run-dir /a", "--run-dir /b", "--run-dir /a here and --run-dir /b at x:1"),
            ("-d", "", "--debug here and no --debug at x:1"),
            ("--log-format json", "", "--log-format json here and --log-format text at x:1"),
        ] {
            let conf = parsed(&format!("25 a {first}\n26 a {options}\n27 a {first}"));
            let expected = format!("x:2: {why}: one process runs all lines");
            assert_eq!(conf.wrong(), [expected]);
            assert_eq!(conf.lines.len(), 2);
        }
    }

    #[test]
    fn lines_that_agree_have_the_settings_in_common() {
        let conf = parsed("default --workers 2 -d\n25 a -t 7\n26 b --datapath auto -a");
        assert_eq!(conf.wrong(), [""; 0]);
        let settings = conf.process_settings().unwrap();
        assert!(settings.debug && settings.workers == Some(2) && settings.user.is_none());
        let of_defaults = |text: &str| parsed(text).process_settings();
        let group = |text: &str| of_defaults(text).and_then(|settings| settings.control_group);
        assert_eq!(group("default --control-group adm\n"), Some("adm".to_owned()));
        assert_eq!((group(""), of_defaults("default -x")), (None, None));
    }
}
