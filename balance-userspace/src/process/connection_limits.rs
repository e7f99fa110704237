//! The number of connections that the limits of the process allow.
//!
//! Invariant: with the maximum number of open connections there are still descriptors for control
//! clients, name resolution, the log and interfaces that the datapath attaches to later. Even a
//! lower limit allows one connection.

use tracing::warn;

use crate::{
    control::server::client_limiter::ClientLimits,
    datapath,
    error::StartError,
    io::connect,
    sys::{self, memory::Memory},
};

/// Pending accepts for each listener, so that the ring accepts a burst at once.
const ACCEPTS_PER_LISTENER: usize = 8;

/// Descriptors of a connection: client and server.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Descriptors that a worker may open for a short time: a socket that sends a peer the end of its
/// connection, a file of the control group, a stream that is closed once the ring no longer uses
/// it.
const DESCRIPTORS_PER_WORKER: usize = 3;

/// Descriptors for name resolution, syslog and the files that these read.
const DESCRIPTORS_FOR_LOOK_UPS: usize = 5;

/// The most connections, whatever the limits are. The BPF maps are allocated for all connections.
const MAX_CONNECTIONS: usize = 1 << 20;

/// The limit of open files.
#[derive(Clone, Copy)]
pub(crate) struct Descriptors(usize);

impl Descriptors {
    /// Raises the soft limit to the hard limit.
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

    /// Pending accepts for each listener, with `listeners` of them. Each accept can hold a
    /// connection that waits for a permit.
    pub(crate) fn accepts(self, listeners: usize) -> usize {
        (self.0 / 64 / listeners.max(1)).clamp(1, ACCEPTS_PER_LISTENER)
    }

    /// Limits of concurrent control clients.
    pub(crate) fn control_clients(self) -> ClientLimits {
        ClientLimits::default().at_most((self.0 / 32).max(2))
    }

    /// Concurrent connection attempts to further addresses of servers.
    pub(crate) fn extra_attempts(self) -> usize {
        connect::extra_attempts(self.0)
    }

    /// An upper bound of the connections, known before other descriptors are open.
    fn max_connections(self) -> usize {
        (self.0 / DESCRIPTORS_PER_CONNECTION).clamp(1, MAX_CONNECTIONS)
    }

    /// The number of connections that fit beside `open` descriptors.
    fn connections(self, open: usize, workers: usize, listeners: usize) -> usize {
        let control = self.control_clients();
        let reserved = workers * DESCRIPTORS_PER_WORKER
            + listeners * self.accepts(listeners)
            + control.served
            + control.reading
            + control.waiting
            + self.extra_attempts()
            + DESCRIPTORS_FOR_LOOK_UPS
            + datapath::LATE_DESCRIPTORS;
        (self.0.saturating_sub(open + reserved) / DESCRIPTORS_PER_CONNECTION).max(1)
    }
}

/// An upper bound of the connections of a process that inherits the limits of this process.
pub(crate) fn most() -> usize {
    let limit = sys::open_file_limit().ok().and_then(|limit| usize::try_from(limit).ok());
    Descriptors(limit.unwrap_or(usize::MAX)).max_connections()
}

/// An upper bound of the connections, known before the process opens anything.
pub(crate) fn upper_bound(requested: Option<usize>, files: Descriptors, memory: &Memory) -> usize {
    files.max_connections().min(by_memory(memory)).min(requested.unwrap_or(MAX_CONNECTIONS))
}

/// The number of connections that the limits allow. Call this when all permanent descriptors are
/// open, except for `late` ones.
pub(crate) fn connections(
    requested: Option<usize>,
    files: Descriptors,
    memory: &Memory,
    workers: usize,
    listeners: usize,
    late: usize,
) -> usize {
    let open = sys::open_descriptors(files.0) + late;
    let by_files = files.connections(open, workers, listeners);
    let allowed = by_files.min(by_memory(memory)).min(MAX_CONNECTIONS);
    let Some(requested) = requested else { return allowed };
    if requested > by_files {
        let open_files = files.0;
        warn!(
            requested,
            allowed, open_files, "open-file limit allows fewer connections than requested"
        );
    } else if requested > allowed {
        warn!(
            requested,
            allowed, "control group memory limit allows fewer connections than requested"
        );
    }
    requested.min(allowed)
}

fn by_memory(memory: &Memory) -> usize {
    memory.connections().unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_descriptors_are_counted() {
        // Many files, because other tests open and close some at the same time.
        let before = sys::open_descriptors(1000);
        let files: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let grown = sys::open_descriptors(1000).abs_diff(before);
        assert!((200..400).contains(&grown), "{grown} for {}", files.len());
    }

    #[test]
    fn each_limit_leaves_descriptors_for_the_duties_of_the_process() {
        let open = 50;
        for limit in [64, 100, 128, 256, 512, 1024, 4096, 1 << 20] {
            let files = Descriptors(limit);
            for (workers, listeners) in [(1, 1), (2, 2), (4, 1), (1, 4)] {
                let connections = files.connections(open, workers, listeners);
                let ClientLimits { served, reading, waiting } = files.control_clients();
                assert!(connections >= 1 && served >= 2 && waiting >= 2, "{limit}");
                assert!(files.accepts(listeners) >= 1);
                let clients = served + reading + waiting;
                let all = open + connections * 2 + clients + DESCRIPTORS_FOR_LOOK_UPS;
                assert!(connections == 1 || all <= limit, "{limit}: {all}");
                assert!(connections <= files.max_connections());
            }
        }
        // Nearly all of a large limit is for connections.
        assert!(Descriptors(1 << 20).connections(open, 2, 2) > (1 << 19) - 500);
    }
}
