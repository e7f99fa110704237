//! The verb `health`: a check for monitors, as monitoring plugins are.
//!
//! Invariant: the verb ends within two seconds, prints one line or one JSON object on standard
//! output, and has the exit code of its status.

mod observe;
mod report;
mod verdict;

use self::verdict::Status;
use super::output::print;
use crate::cli::HealthOptions;

/// Checks the listeners, and returns the exit code.
pub(super) fn health(options: &HealthOptions) -> u8 {
    match observe::observe(&options.location, options.name.as_deref()) {
        Ok(seen) => {
            let reasons = verdict::reasons(&seen);
            match options.json {
                true => print(&report::json(&seen, &reasons)),
                false => print(&report::line(&seen, &reasons)),
            }
            verdict::status(&reasons).exit_code()
        }
        Err(error) => {
            let why = error.to_string();
            match options.json {
                true => print(&report::unknown_json(&why)),
                false => print(&report::unknown_line(&why)),
            }
            Status::Unknown.exit_code()
        }
    }
}

/// Reports a mistake in the arguments, and returns the exit code.
pub fn unknown(why: &str) -> u8 {
    print(&report::unknown_line(why));
    Status::Unknown.exit_code()
}
