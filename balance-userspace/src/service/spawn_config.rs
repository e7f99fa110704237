//! The settings that the supervisor passes to a new process in an environment variable.
//!
//! Invariant: the command line in ps(1) is exactly the line of the file.

use std::env;

use serde::{Deserialize, Serialize};

use crate::{cli::args::LogFormat, error::StartError, logging::Sink};

/// The environment variable that carries the [`SpawnConfig`] as JSON.
pub(super) const VARIABLE: &str = "BALANCE_SUPERVISED";

/// The settings of a supervised process beside its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnConfig {
    /// Number of inherited listeners, from descriptor 3 on.
    pub listeners: usize,
    /// The listeners came from a service manager, so clients may have connected already.
    pub listened: bool,
    /// Log to syslog.
    pub background: bool,
    /// Write the foreground log as JSON.
    pub json: bool,
}

impl SpawnConfig {
    /// Reads the environment of this process; `None` if no supervisor started it.
    ///
    /// # Errors
    /// [`StartError::Usage`] when the value is malformed.
    pub fn from_env() -> Result<Option<Self>, StartError> {
        let text = env::var_os(VARIABLE);
        // Text that is not UTF-8 is not JSON either.
        text.map(|text| Self::parse(&text.to_string_lossy())).transpose()
    }

    /// Parses the value of the variable.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        serde_json::from_str(text)
            .map_err(|why| StartError::Usage(format!("{VARIABLE} is malformed: {why}")))
    }

    /// Formats the value of the variable.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("all fields have a JSON form")
    }

    /// The destination of the log.
    pub fn sink(&self) -> Sink {
        if self.background { Sink::Background } else { Sink::Foreground }
    }

    /// The format of the log: JSON if the supervisor or the instance's own arguments ask for it.
    pub fn log_format(&self, own: LogFormat) -> LogFormat {
        if self.json { LogFormat::Json } else { own }
    }
}
