//! Judges whether the records of both sides are possible on connections that lose nothing.
//!
//! Invariant: the verdict depends only on the plan and the records.

use super::{Ending, Plan, Reception, Record, StreamEnd};

/// What is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A side read a byte that differs from the byte sent at its offset.
    Wrong {
        /// The reading side.
        reader: &'static str,
        /// Offset.
        at: u64,
    },
    /// A side read more than was sent.
    TooMuch {
        /// The reading side.
        reader: &'static str,
    },
    /// A side read a FIN before all bytes.
    Truncated {
        /// The reading side.
        reader: &'static str,
        /// Number of missing bytes.
        missing: u64,
    },
    /// A side read a FIN that the other side had not sent.
    FalseEnd {
        /// The reading side.
        reader: &'static str,
    },
    /// A connection broke that neither side had broken.
    Broken {
        /// The side that saw the break.
        reader: &'static str,
        /// How the stream ended for the side.
        end: Option<StreamEnd>,
    },
    /// A connection ended with neither FIN nor RST.
    UnexpectedEnd {
        /// The side that saw the end.
        reader: &'static str,
        /// How the stream ended for the side.
        end: StreamEnd,
    },
    /// A side had not finished at its deadline.
    Hangs {
        /// The side.
        side: &'static str,
        /// Its act at the deadline.
        place: String,
    },
    /// The client reached no backend although one listened.
    NotServed,
    /// The client reached a second backend after bytes from the first.
    ServedTwice,
    /// The client received bytes although it reached no backend.
    ServedByNobody,
}

/// The violations in a scenario, from the records of its client and of the backends that accepted
/// it, in order.
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
    // A side that hangs leaves at its deadline, which breaks the other side.
    if [client, backend].iter().all(|side| side.left.is_none() && side.stuck.is_none()) {
        faults.extend(unbroken("client", client));
        faults.extend(unbroken("backend", backend));
    }
    faults
}

/// Whether the program may have closed the client because all backends reset their connections
/// before the program knew that its connects had succeeded. To the client that is the same as no
/// listening backend.
pub(super) fn is_turned_away(client: &Record, backends: &[Record]) -> bool {
    client.received == 0 && backends.iter().all(is_passed_over)
}

/// Whether a backend may have reset its connection that early.
fn is_passed_over(backend: &Record) -> bool {
    backend.received == 0 && backend.left == Some(Ending::Reset)
}

/// The violation of a client that no backend accepted.
fn alone(plan: &Plan, client: &Record) -> Option<Violation> {
    match plan.reception {
        // A client that resets at once does not always reach a backend.
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

/// The violations in one direction, from `from` to `to`.
fn direction(from: &Record, reader: &'static str, to: &Record) -> Vec<Violation> {
    let mut faults = Vec::new();
    faults.extend(to.wrong_at.map(|at| Violation::Wrong { reader, at }));
    if to.received > from.sent {
        faults.push(Violation::TooMuch { reader });
    }
    if to.end == Some(StreamEnd::Clean) {
        // When a side closes its socket after reading everything, the kernel sends a FIN.
        if !from.finished && from.left != Some(Ending::Close) {
            faults.push(Violation::FalseEnd { reader });
        }
        if to.received < from.sent {
            faults.push(Violation::Truncated { reader, missing: from.sent - to.received });
        }
    }
    faults
}

/// The violation of a side in a scenario without a break.
fn unbroken(reader: &'static str, record: &Record) -> Option<Violation> {
    let is_clean = record.end == Some(StreamEnd::Clean) && record.finished;
    (!is_clean).then(|| Violation::Broken { reader, end: record.end.clone() })
}
