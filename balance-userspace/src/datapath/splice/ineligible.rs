//! Why connections are not spliced, and how many were not for each reason.
//!
//! Invariant: the numbers only grow.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Why a pair cannot be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is nothing left to join.
    Ended,
    /// IPv4 here, IPv6 there.
    Families,
    /// Timestamps, selective acknowledgements or congestion notification on one side only.
    Options,
    /// One side may send what the other's path, or the other peer, does not take.
    Segments,
    /// One peer's window is smaller than a segment of the other, or than the least that the other can
    /// be told.
    Window,
    /// A peer is reached through something that is not like Ethernet, or not at all.
    Device,
    /// The program does not see the packets of a peer.
    Unseen,
    /// A peer's packets come in fragments, or with headers that the program does not read.
    Fragments,
    /// The kernel has no slot or no memory.
    Room,
}

impl Obstacle {
    const ALL: [Self; 9] = [
        Self::Ended,
        Self::Families,
        Self::Options,
        Self::Segments,
        Self::Window,
        Self::Device,
        Self::Unseen,
        Self::Fragments,
        Self::Room,
    ];
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "one side has ended already",
            Self::Families => "one side is IPv4, the other IPv6",
            Self::Options => "the sides did not agree on the same TCP options",
            Self::Segments => "one side's segments do not fit the other's path",
            Self::Window => "a peer's window is too small for the other",
            Self::Device => "a peer is not reached through Ethernet or loopback",
            Self::Unseen => "a peer's packets do not come by where they go",
            Self::Fragments => {
                "a peer's packets come in fragments, or with headers that are not read"
            }
            Self::Room => "no slot or no memory in the kernel",
        })
    }
}

/// How often each has been met.
#[derive(Default)]
pub(super) struct Met([AtomicU64; Obstacle::ALL.len()]);

impl Met {
    pub(super) fn count(&self, obstacle: Obstacle) {
        self.0[obstacle as usize].fetch_add(1, Relaxed);
    }

    /// Those that have been met.
    pub(super) fn read(&self) -> Vec<(String, u64)> {
        let counts = Obstacle::ALL.iter().zip(&self.0);
        let counts = counts.map(|(obstacle, count)| (obstacle.to_string(), count.load(Relaxed)));
        counts.filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_under_its_own_name() {
        let met = Met::default();
        for obstacle in Obstacle::ALL {
            met.count(obstacle);
        }
        met.count(Obstacle::Unseen);
        let read = met.read();
        assert_eq!(read.len(), Obstacle::ALL.len());
        for (name, count) in read {
            let expected = if name == Obstacle::Unseen.to_string() { 2 } else { 1 };
            assert_eq!(count, expected, "{name}");
        }
    }
}
