//! The reasons why pairs are not spliced, and a counter for each.
//!
//! Invariant: a counter never decreases.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The reason why a pair cannot be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ineligible {
    /// A connection has ended already.
    Ended,
    /// One connection uses IPv4, the other IPv6.
    Families,
    /// The connections did not negotiate the same timestamps, selective acknowledgements and
    /// congestion notification.
    Options,
    /// A peer may send segments that are too large for the other peer or its path.
    Segments,
    /// A peer's window is smaller than a segment of the other peer, or than one unit of the other
    /// connection's window scale.
    Window,
    /// A peer is not reached through Ethernet or loopback.
    Interface,
    /// The program does not see the packets of a peer.
    Unseen,
    /// A peer sends fragments, or packets with headers that the program does not read.
    Fragments,
    /// There is no free slot, or the kernel has no memory.
    Room,
}

impl Ineligible {
    const ALL: [Self; 9] = [
        Self::Ended,
        Self::Families,
        Self::Options,
        Self::Segments,
        Self::Window,
        Self::Interface,
        Self::Unseen,
        Self::Fragments,
        Self::Room,
    ];
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "one side has ended already",
            Self::Families => "one side is IPv4, the other IPv6",
            Self::Options => "the sides did not agree on the same TCP options",
            Self::Segments => "one side's segments do not fit the other's path",
            Self::Window => "a peer's window is too small for the other",
            Self::Interface => "a peer is not reached through Ethernet or loopback",
            Self::Unseen => "asymmetric routing: peer packets not seen",
            Self::Fragments => "a peer sends fragments or packets with unknown headers",
            Self::Room => "no slot or no memory in the kernel",
        })
    }
}

/// Number of pairs for each reason.
#[derive(Default)]
pub(super) struct IneligibleCounts([AtomicU64; Ineligible::ALL.len()]);

impl IneligibleCounts {
    pub(super) fn count(&self, reason: Ineligible) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// The reasons that have occurred, with their counts.
    pub(super) fn read(&self) -> Vec<(String, u64)> {
        let counts = Ineligible::ALL.iter().zip(&self.0);
        let counts = counts.map(|(reason, count)| (reason.to_string(), count.load(Relaxed)));
        counts.filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_under_its_own_text() {
        let counts = IneligibleCounts::default();
        for reason in Ineligible::ALL {
            counts.count(reason);
        }
        counts.count(Ineligible::Unseen);
        let read = counts.read();
        assert_eq!(read.len(), Ineligible::ALL.len());
        for (name, count) in read {
            let expected = if name == Ineligible::Unseen.to_string() { 2 } else { 1 };
            assert_eq!(count, expected, "{name}");
        }
    }
}
