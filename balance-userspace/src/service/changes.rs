//! The changes of a supervisor that are in progress.
//!
//! Invariant: a supervisor has at most one of each kind.

use std::{collections::HashMap, time::Instant};

use tokio::sync::oneshot;

use super::{
    conf::{InstanceName, Line},
    generation::Generation,
    reload_differences::ReloadDifferences,
};
use crate::control::protocol::SupervisorReply;

/// A reload in progress.
#[derive(Default)]
pub(super) struct Reload {
    /// Receives the result. After a signal no task waits for it.
    pub(super) reply: Option<oneshot::Sender<SupervisorReply>>,
    /// Removed instances that still accept.
    pub(super) removing: HashMap<u64, Instant>,
    /// Instances that are to take new arguments.
    pub(super) configuring: HashMap<u64, Line>,
    /// Lines to start once nothing is removed any more.
    pub(super) starting: Vec<Line>,
    /// Lines whose instance is started again, by its new number.
    pub(super) replacing: HashMap<u64, Line>,
    /// Another supervisor started the current process; a successor replaces it.
    pub(super) is_takeover: bool,
    /// A new process is to replace the current one.
    pub(super) has_successor: bool,
    /// The instances whose change is complete once they serve, and what changes.
    pub(super) started: Vec<(InstanceName, &'static str)>,
    /// What control commands have changed.
    pub(super) differences: ReloadDifferences,
    /// The complete changes.
    pub(super) changed: Vec<String>,
    /// The changes that failed: reason and exit code.
    pub(super) failed: Vec<(String, u8)>,
}

/// A new process, and the instances that it has been asked to serve.
pub(super) struct Successor {
    pub(super) process: Generation,
    /// The line of each instance, by its number in the new process.
    pub(super) lines: HashMap<u64, Line>,
    /// Why an instance cannot serve, and the exit code.
    pub(super) failed: HashMap<InstanceName, (String, u8)>,
}

/// An upgrade that has not executed the new program yet.
pub(super) struct Upgrade {
    pub(super) reply: oneshot::Sender<SupervisorReply>,
    /// The new program has found no mistake.
    pub(super) is_checked: bool,
}
