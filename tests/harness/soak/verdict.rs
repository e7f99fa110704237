//! Whether what both sides of a life saw can be true of connections that lose nothing.
//!
//! Invariant: decided from the plan and the two records alone.

use super::{End, Ending, Plan, Reception, Record};

/// What is wrong with a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A side read another byte than was said at that place.
    Wrong {
        /// Who read it.
        reader: &'static str,
        /// Where.
        at: u64,
    },
    /// A side read more than was said.
    TooMuch {
        /// Who read it.
        reader: &'static str,
    },
    /// A side was told that it had heard everything, and had not.
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
        end: Option<End>,
    },
    /// Something else became of a connection than a FIN or a reset.
    Odd {
        /// Who was told.
        reader: &'static str,
        /// How it ended for it.
        end: End,
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
    /// The client heard something although there was no backend.
    ServedByNobody,
}

/// What is wrong with a life whose client, and the backends it came to in turn, wrote that down.
pub fn judge(plan: &Plan, client: &Record, backends: &[Record]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let sides = backends.iter().map(|backend| ("backend", backend)).chain([("client", client)]);
    for (side, record) in sides {
        faults.extend(record.stuck.clone().map(|place| Fault::Hangs { side, place }));
        if let Some(end @ End::Other(_)) = record.end.clone() {
            faults.push(Fault::Odd { reader: side, end });
        }
    }
    let Some((backend, passed_over)) = backends.split_last() else {
        faults.extend(alone(plan, client));
        return faults;
    };
    if !passed_over.iter().all(is_passed_over) {
        faults.push(Fault::ServedTwice);
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
    client.heard == 0 && backends.iter().all(is_passed_over)
}

/// Whether a backend may have broken off so early.
fn is_passed_over(backend: &Record) -> bool {
    backend.heard == 0 && backend.left == Some(Ending::Reset)
}

/// What is wrong with a client that no backend has accepted.
fn alone(plan: &Plan, client: &Record) -> Option<Fault> {
    match plan.reception {
        // One that resets at once is not always brought to a backend.
        Reception::Served | Reception::Spare if client.left != Some(Ending::Reset) => {
            Some(Fault::NotServed)
        }
        Reception::DiesInQueue if client.end == Some(End::Clean) => {
            Some(Fault::FalseEnd { reader: "client" })
        }
        _ if client.heard > 0 => Some(Fault::ServedByNobody),
        _ => None,
    }
}

/// What is wrong with what `to` saw of what `from` said.
fn direction(from: &Record, reader: &'static str, to: &Record) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(to.wrong_at.map(|at| Fault::Wrong { reader, at }));
    if to.heard > from.said {
        faults.push(Fault::TooMuch { reader });
    }
    if to.end == Some(End::Clean) {
        // A program that closes its socket has the kernel end its direction for it, if it has read
        // everything.
        if !from.finished && from.left != Some(Ending::Close) {
            faults.push(Fault::FalseEnd { reader });
        }
        if to.heard < from.said {
            faults.push(Fault::Truncated { reader, missing: from.said - to.heard });
        }
    }
    faults
}

/// What is wrong with a side of a life that nobody broke.
fn unbroken(reader: &'static str, record: &Record) -> Option<Fault> {
    let is_clean = record.end == Some(End::Clean) && record.finished;
    (!is_clean).then(|| Fault::Broken { reader, end: record.end.clone() })
}
