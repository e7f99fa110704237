//! How many connections the limits of the process allow.
//!
//! Invariant: when all connections that are allowed are open, the duties of the process still have
//! their descriptors: control clients, name resolution, the log, interfaces that are attached later. A
//! limit that has no room for that still allows one connection.

use tracing::warn;

use crate::{
    control::server::client_limiter::ClientLimits,
    datapath,
    error::StartError,
    io::connect,
    sys::{self, memory::Memory},
};

/// Accepts that wait for each listener at a time, so that a burst is taken in one turn.
const ACCEPTS: usize = 8;

/// Client and server.
const PER_CONNECTION: usize = 2;

/// What a worker may have open for a moment: a socket that tells a peer of the end, a file of the
/// control group, a stream that is closed only when the ring lets go of it.
const PER_WORKER: usize = 3;

/// Name resolution, syslog and the files that they read.
const LOOK_UPS: usize = 5;

/// Limits beyond this are a formality, and the maps are made for all connections.
const MOST: usize = 1 << 20;

/// The limit of open files.
#[derive(Clone, Copy)]
pub(crate) struct Descriptors(usize);

impl Descriptors {
    /// Raises the limit as far as it goes.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub(crate) fn raise() -> Result<Self, StartError> {
        let limit = sys::raise_open_file_limit().map_err(|source| StartError::System {
            act: "raise the limit of open files",
            source,
        })?;
        Ok(Self(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// Accepts that wait for each of so many listeners. Each can have a connection in hand that has to
    /// wait.
    pub(crate) fn accepts(self, listeners: usize) -> usize {
        (self.0 / 64 / listeners.max(1)).clamp(1, ACCEPTS)
    }

    /// Control clients at a time.
    pub(crate) fn control_clients(self) -> ClientLimits {
        ClientLimits::default().at_most((self.0 / 32).max(2))
    }

    /// Attempts at further addresses of servers at a time.
    pub(crate) fn extra_attempts(self) -> usize {
        connect::extra_attempts(self.0)
    }

    /// No more connections than this, whatever else is opened.
    fn most(self) -> usize {
        (self.0 / PER_CONNECTION).clamp(1, MOST)
    }

    /// How many connections there is room for beside so many descriptors that are open.
    fn connections(self, open: usize, workers: usize, listeners: usize) -> usize {
        let control = self.control_clients();
        let duties = workers * PER_WORKER
            + listeners * self.accepts(listeners)
            + control.served
            + control.waiting
            + self.extra_attempts()
            + LOOK_UPS
            + datapath::LATE_DESCRIPTORS;
        (self.0.saturating_sub(open + duties) / PER_CONNECTION).max(1)
    }
}

/// The most connections that can come to be allowed, known before anything is opened.
pub(crate) fn upper_bound(wanted: Option<usize>, files: Descriptors, memory: &Memory) -> usize {
    files.most().min(by_memory(memory)).min(wanted.unwrap_or(MOST))
}

/// How many connections are allowed, once everything is open that stays open.
pub(crate) fn connections(
    wanted: Option<usize>,
    files: Descriptors,
    memory: &Memory,
    workers: usize,
    listeners: usize,
) -> usize {
    let by_files = files.connections(sys::open_descriptors(files.0), workers, listeners);
    let allowed = by_files.min(by_memory(memory)).min(MOST);
    let Some(wanted) = wanted else { return allowed };
    if wanted > by_files {
        let open_files = files.0;
        warn!(
            requested = wanted,
            allowed, open_files, "open-file limit allows fewer connections than requested"
        );
    } else if wanted > allowed {
        warn!(
            requested = wanted,
            allowed, "control group memory limit allows fewer connections than requested"
        );
    }
    wanted.min(allowed)
}

fn by_memory(memory: &Memory) -> usize {
    memory.connections().unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_descriptors_are_counted() {
        // Above those that other tests open and close meanwhile.
        let before = sys::open_descriptors(1000);
        let files: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let grown = sys::open_descriptors(1000).abs_diff(before);
        assert!((200..400).contains(&grown), "{grown} for {}", files.len());
    }

    #[test]
    fn each_limit_leaves_room_for_what_the_process_has_to_do() {
        let open = 50;
        for limit in [64, 100, 128, 256, 512, 1024, 4096, 1 << 20] {
            let files = Descriptors(limit);
            for (workers, listeners) in [(1, 1), (2, 2), (4, 1), (1, 4)] {
                let connections = files.connections(open, workers, listeners);
                let ClientLimits { served, waiting } = files.control_clients();
                assert!(connections >= 1 && served >= 2 && waiting >= 2, "{limit}");
                assert!(files.accepts(listeners) >= 1);
                let all = open + connections * 2 + served + waiting + LOOK_UPS;
                assert!(connections == 1 || all <= limit, "{limit}: {all}");
                assert!(connections <= files.most());
            }
        }
        // Nearly all of a large one is for connections.
        assert!(Descriptors(1 << 20).connections(open, 2, 2) > (1 << 19) - 500);
    }
}
