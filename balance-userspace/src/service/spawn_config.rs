//! What the supervisor tells a process that it starts, beside the arguments of the instance.
//!
//! Invariant: the arguments that ps(1) shows are those of the line in the file, nothing added.

use std::env;

use serde::{Deserialize, Serialize};

use crate::{cli::args::LogFormat, error::StartError, logging::Sink};

/// The environment variable that carries the [`SpawnConfig`] as JSON.
pub(super) const VARIABLE: &str = "BALANCE_SUPERVISED";

/// What the supervisor tells the new process beside its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnConfig {
    /// Listeners that it inherits, from descriptor 3 on.
    pub listeners: usize,
    /// Somebody may have connected to them before, as to those of a service manager.
    pub listened: bool,
    /// The log goes to syslog.
    pub background: bool,
    /// The log in the foreground is JSON.
    pub json: bool,
}

impl SpawnConfig {
    /// Those that this process was started with, if it was started by a supervisor.
    ///
    /// # Errors
    /// [`StartError::Usage`] when they make no sense.
    pub fn from_env() -> Result<Option<Self>, StartError> {
        let text = env::var_os(VARIABLE);
        // What is no UTF-8 is no JSON either.
        text.map(|text| Self::parse(&text.to_string_lossy())).transpose()
    }

    /// Reads what the variable has.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        serde_json::from_str(text)
            .map_err(|why| StartError::Usage(format!("{VARIABLE} makes no sense: {why}")))
    }

    /// As the variable has them.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("it has nothing that JSON cannot say")
    }

    /// Where the log goes.
    pub fn sink(&self) -> Sink {
        if self.background { Sink::Background } else { Sink::Foreground }
    }

    /// Its form; what the instance's own arguments ask for counts as well.
    pub fn log_format(&self, own: LogFormat) -> LogFormat {
        if self.json { LogFormat::Json } else { own }
    }
}
