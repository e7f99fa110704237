//! What can change of an instance while it runs, beside its table: one value, replaced whole.
//!
//! Invariant: whoever needs a setting reads it when it is needed, and keeps it for one connect, one
//! look or one wait at most.

use std::time::Duration;

use crate::{cli::args::Args, selection::Policy};

/// The choices of a command line that the table follows.
pub(crate) fn policy(args: &Args) -> Policy {
    Policy { hash_failover: args.hash_failover, autodisable: args.autodisable }
}

/// How long connections may be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Any of them; `None` is for ever.
    pub(crate) idle: Option<Duration>,
    /// Those that one side has ended; `None` is for ever.
    pub(crate) half_closed: Option<Duration>,
}

/// Settings in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The longest that a channel may take to connect (`-t`).
    pub(crate) connect_limit: Duration,
    /// How long connections may be idle (`-T`, `--half-close-timeout`).
    pub(crate) limits: Limits,
    /// How long connections may go on after a signal to stop (`--grace`).
    pub(crate) grace: Duration,
    /// How often names are resolved again (`--resolve-interval`); `None` is on demand only.
    pub(crate) resolve_interval: Option<Duration>,
}

impl Settings {
    /// What a command line says.
    pub(crate) fn of(args: &Args) -> Self {
        let seconds = |n: u32| Duration::from_secs(n.into());
        Self {
            connect_limit: seconds(args.connect_timeout),
            limits: Limits {
                idle: args.idle_timeout.map(seconds),
                half_closed: Some(args.half_close_timeout).filter(|&n| n > 0).map(seconds),
            },
            grace: seconds(args.grace),
            resolve_interval: Some(args.resolve_interval).filter(|&n| n > 0).map(seconds),
        }
    }
}
