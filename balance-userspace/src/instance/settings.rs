//! The settings of an instance that can change while it runs, beside its table: one value, replaced
//! as a whole.
//!
//! Invariant: a task reads a setting when the setting is needed, and keeps the value for one
//! connect, one inspection or one wait at most.

use std::time::Duration;

use crate::{cli::args::Args, selection::Policy};

/// The options of the command line that channel selection follows.
pub(crate) fn policy(args: &Args) -> Policy {
    Policy { hash_failover: args.hash_failover, autodisable: args.autodisable }
}

/// The idle limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleLimits {
    /// Of every connection; `None` is no limit.
    pub(crate) idle: Option<Duration>,
    /// Of half-closed connections; `None` is no limit.
    pub(crate) half_closed: Option<Duration>,
}

/// The current settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The name of the instance (`--name`).
    pub(crate) name: Option<String>,
    /// The time limit of a connect (`-t`).
    pub(crate) connect_limit: Duration,
    /// The idle limits (`-T`, `--half-close-timeout`).
    pub(crate) idle_limits: IdleLimits,
    /// How long connections may stay open after SIGTERM (`--grace`).
    pub(crate) grace: Duration,
    /// How long connections may stay open after a replacement (`--drain-timeout`); `None` is no
    /// limit.
    pub(crate) drain_timeout: Option<Duration>,
    /// The interval at which names are resolved again (`--resolve-interval`); `None` is on demand
    /// only.
    pub(crate) resolve_interval: Option<Duration>,
}

impl Settings {
    /// The settings of a command line.
    pub(crate) fn of(args: &Args) -> Self {
        let seconds = |n: u32| Duration::from_secs(n.into());
        Self {
            name: args.name.clone(),
            connect_limit: seconds(args.connect_timeout),
            idle_limits: IdleLimits {
                idle: args.idle_timeout.map(seconds),
                half_closed: Some(args.half_close_timeout).filter(|&n| n > 0).map(seconds),
            },
            grace: seconds(args.grace),
            drain_timeout: Some(args.drain_timeout).filter(|&n| n > 0).map(seconds),
            resolve_interval: Some(args.resolve_interval).filter(|&n| n > 0).map(seconds),
        }
    }
}
