//! Whether what both sides of a scenario saw can be true of connections that lose nothing.
//!
//! Invariant: decided from the plan and the two records alone.

use super::{Ending, Plan, Reception, Record, StreamEnd};

/// What is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A side read another byte than was sent at that place.
    Wrong {
        /// Who read it.
        reader: &'static str,
        /// Where.
        at: u64,
    },
    /// A side read more than was sent.
    TooMuch {
        /// Who read it.
        reader: &'static str,
    },
    /// A side was told that it had received everything, and had not.
    Truncated {
        /// Who was told.
        reader: &'static str,
        /// Bytes that are missing.
        missing: u64,
    },
    /// A side was told of an orderly end where there was none.
    FalseEnd {
        /// Who was told.
        reader: &'static str,
    },
    /// A side was told that a connection was broken which nobody broke.
    Broken {
        /// Who was told.
        reader: &'static str,
        /// How it ended for it.
        end: Option<StreamEnd>,
    },
    /// Something else became of a connection than a FIN or a reset.
    UnexpectedEnd {
        /// Who was told.
        reader: &'static str,
        /// How it ended for it.
        end: StreamEnd,
    },
    /// A side has not come to its end in time.
    Hangs {
        /// Who.
        side: &'static str,
        /// Where it stood.
        place: String,
    },
    /// The client was not connected to a backend although there was one.
    NotServed,
    /// The client was brought to another backend after it had talked to one.
    ServedTwice,
    /// The client received something although there was no backend.
    ServedByNobody,
}

/// What is wrong with a scenario whose client, and the backends it came to in turn, wrote that down.
pub fn find_violations(plan: &Plan, client: &Record, backends: &[Record]) -> Vec<Violation> {
    let mut faults = Vec::new();
    let sides = backends.iter().map(|backend| ("backend", backend)).chain([("client", client)]);
    for (side, record) in sides {
        faults.extend(record.stuck.clone().map(|place| Violation::Hangs { side, place }));
        if let Some(end @ StreamEnd::Other(_)) = record.end.clone() {
            faults.push(Violation::UnexpectedEnd { reader: side, end });
        }
    }
    let Some((backend, passed_over)) = backends.split_last() else {
        faults.extend(alone(plan, client));
        return faults;
    };
    if !passed_over.iter().all(is_passed_over) {
        faults.push(Violation::ServedTwice);
    }
    faults.extend(direction(client, "backend", backend));
    if !is_turned_away(client, backends) {
        faults.extend(direction(backend, "client", client));
    }
    // One that hangs leaves in the end, and that breaks the other.
    if [client, backend].iter().all(|side| side.left.is_none() && side.stuck.is_none()) {
        faults.extend(unbroken("client", client));
        faults.extend(unbroken("backend", backend));
    }
    faults
}

/// Whether a client may have been closed because all backends broke off before the program knew
/// that it was connected to them: the same to it as if none listened.
pub(super) fn is_turned_away(client: &Record, backends: &[Record]) -> bool {
    client.received == 0 && backends.iter().all(is_passed_over)
}

/// Whether a backend may have broken off so early.
fn is_passed_over(backend: &Record) -> bool {
    backend.received == 0 && backend.left == Some(Ending::Reset)
}

/// What is wrong with a client that no backend has accepted.
fn alone(plan: &Plan, client: &Record) -> Option<Violation> {
    match plan.reception {
        // One that resets at once is not always brought to a backend.
        Reception::Served | Reception::Failover if client.left != Some(Ending::Reset) => {
            Some(Violation::NotServed)
        }
        Reception::DiesBeforeAccept if client.end == Some(StreamEnd::Clean) => {
            Some(Violation::FalseEnd { reader: "client" })
        }
        _ if client.received > 0 => Some(Violation::ServedByNobody),
        _ => None,
    }
}

/// What is wrong with what `to` saw of what `from` sent.
fn direction(from: &Record, reader: &'static str, to: &Record) -> Vec<Violation> {
    let mut faults = Vec::new();
    faults.extend(to.wrong_at.map(|at| Violation::Wrong { reader, at }));
    if to.received > from.sent {
        faults.push(Violation::TooMuch { reader });
    }
    if to.end == Some(StreamEnd::Clean) {
        // A program that closes its socket has the kernel end its direction for it, if it has read
        // everything.
        if !from.finished && from.left != Some(Ending::Close) {
            faults.push(Violation::FalseEnd { reader });
        }
        if to.received < from.sent {
            faults.push(Violation::Truncated { reader, missing: from.sent - to.received });
        }
    }
    faults
}

/// What is wrong with a side of a scenario that nobody broke.
fn unbroken(reader: &'static str, record: &Record) -> Option<Violation> {
    let is_clean = record.end == Some(StreamEnd::Clean) && record.finished;
    (!is_clean).then(|| Violation::Broken { reader, end: record.end.clone() })
}
