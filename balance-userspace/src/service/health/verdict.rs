//! The verdict on what was observed.
//!
//! Pure. Invariant: the status is the worst of the reasons, and OK without a reason.

use std::collections::BTreeMap;

use serde::Serialize;

/// A status of monitoring plugins. The order is from the best to the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    #[default]
    Ok,
    Unknown,
    Warning,
    Critical,
}

/// What was seen of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SupervisorState {
    /// No supervisor runs.
    Absent,
    Running,
    Stopping,
    /// The supervisor does not answer, or its process is gone; the reason.
    Unanswered(String),
    /// The user may not read; the reason.
    Unreadable(String),
}

/// What was seen of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenerState {
    Running,
    /// The listener is not served; the reason.
    NotServed(&'static str, String),
    /// The user may not read; the reason.
    Unreadable(String),
}

/// Why a server takes no new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unusable {
    Disabled,
    /// The server has its maximum of connections.
    Full,
}

/// A server of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) group: usize,
    pub(super) channel: usize,
    pub(super) unusable: Option<Unusable>,
    pub(super) connections: u32,
    pub(super) max: u32,
}

/// The connections of a listener or a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) open: u64,
    /// The most connections; 0 if the process did not say.
    pub(super) limit: u64,
}

/// What a running instance has replied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) address: Option<String>,
    pub(super) servers: Vec<Server>,
    pub(super) load: Load,
    /// The process, by its id.
    pub(super) process: Option<(u32, Load)>,
}

/// A listener, with the instance behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// The name of the instance, or its port and address.
    pub(super) name: String,
    pub(super) state: ListenerState,
    /// The figures of a running instance.
    pub(super) figures: Option<Figures>,
}

/// Everything that was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) supervisor: SupervisorState,
    /// Lines of the file that do not run.
    pub(super) mistakes: Vec<String>,
    pub(super) listeners: Vec<Listener>,
}

/// Why the status is not OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) status: Status,
    /// The number of the listener in the observation.
    pub(super) listener: Option<usize>,
    pub(super) text: String,
}

impl Load {
    /// The number of connections from which the limit is near: 90 % of the limit.
    fn warning_from(self) -> u64 {
        self.limit.saturating_mul(9).div_ceil(10).max(1)
    }

    /// The highest number of connections that is no warning.
    pub(super) fn highest_ok(self) -> u64 {
        self.warning_from() - 1
    }

    fn is_near_limit(self) -> bool {
        self.limit > 0 && self.open >= self.warning_from()
    }

    fn describe(self) -> String {
        format!("{} of {} connections", self.open, self.limit)
    }
}

impl Figures {
    /// The number of servers that take new connections.
    pub(super) fn usable(&self) -> usize {
        self.servers.iter().filter(|server| server.unusable.is_none()).count()
    }
}

/// The reasons against OK, the worst first, otherwise in the order of the listeners.
pub(super) fn reasons(seen: &Observation) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |status, text: String| reasons.push(Reason { status, listener: None, text });
    match &seen.supervisor {
        SupervisorState::Absent if seen.listeners.is_empty() => {
            add(Status::Unknown, "no supervisor and no instance found".to_owned());
        }
        SupervisorState::Absent | SupervisorState::Running => {}
        SupervisorState::Stopping => add(Status::Critical, "supervisor: stopping".to_owned()),
        SupervisorState::Unanswered(why) => add(Status::Critical, format!("supervisor: {why}")),
        SupervisorState::Unreadable(why) => add(Status::Unknown, why.clone()),
    }
    seen.mistakes.iter().for_each(|mistake| add(Status::Critical, mistake.clone()));
    for (number, listener) in seen.listeners.iter().enumerate() {
        reasons.extend(of_listener(listener).map(|(status, text)| Reason {
            status,
            listener: Some(number),
            text: format!("{}: {text}", listener.name),
        }));
    }
    reasons.extend(of_processes(seen));
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.status));
    reasons
}

/// The worst status.
pub(super) fn status(reasons: &[Reason]) -> Status {
    reasons.iter().map(|reason| reason.status).max().unwrap_or_default()
}

fn of_listener(listener: &Listener) -> impl Iterator<Item = (Status, String)> {
    let state = match &listener.state {
        ListenerState::Running => None,
        ListenerState::NotServed(_, why) => Some((Status::Critical, why.clone())),
        ListenerState::Unreadable(why) => Some((Status::Unknown, why.clone())),
    };
    let figures = listener.figures.as_ref();
    let load = figures.map(|figures| figures.load).filter(|load| load.is_near_limit());
    let load = load.map(|load| (Status::Warning, load.describe()));
    state.into_iter().chain(figures.and_then(of_servers)).chain(load)
}

fn of_servers(figures: &Figures) -> Option<(Status, String)> {
    let unusable = figures.servers.iter().filter_map(|server| {
        let why = match server.unusable? {
            Unusable::Disabled => "disabled",
            Unusable::Full => "full",
        };
        Some(format!("{} {why}", server.name))
    });
    let unusable: Vec<_> = unusable.collect();
    let (usable, all) = (figures.usable(), figures.servers.len());
    match (usable, unusable.join(", ")) {
        (0, which) if which.is_empty() => Some((Status::Critical, "no server".to_owned())),
        (0, which) => Some((Status::Critical, format!("no usable server ({which})"))),
        (_, which) if which.is_empty() => None,
        (_, which) => {
            Some((Status::Warning, format!("{usable} of {all} servers usable ({which})")))
        }
    }
}

/// The processes whose limit is near. A listener with the same limit has said so already.
fn of_processes(seen: &Observation) -> Vec<Reason> {
    let figures = || seen.listeners.iter().filter_map(|listener| listener.figures.as_ref());
    let processes: BTreeMap<u32, Load> = figures().filter_map(|figures| figures.process).collect();
    let near = processes.into_iter().filter(|(pid, load)| {
        let is_said = |figures: &Figures| {
            figures.process.is_some_and(|(own, _)| own == *pid)
                && figures.load.limit == load.limit
                && figures.load.is_near_limit()
        };
        load.is_near_limit() && !figures().any(is_said)
    });
    let reason = |(pid, load): (u32, Load)| Reason {
        status: Status::Warning,
        listener: None,
        text: format!("process {pid}: {}", load.describe()),
    };
    near.map(reason).collect()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
pub(in crate::service::health) mod tests;
