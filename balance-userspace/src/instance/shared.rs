//! What all instances of a process share.
//!
//! Invariant: the limits of the process hold for all instances together. A client that waits at the
//! limit of its own instance holds nothing that another instance needs.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    control::server::client_limiter::ClientLimits, datapath::Datapath,
    instance::shortage::Shortage, io::stream::SocketOptions, sys::memory::Memory,
};

/// The shared state of a process.
pub(crate) struct Shared {
    /// The configuration file of the supervisor, if there is one.
    pub(crate) config: Option<PathBuf>,
    pub(crate) datapath: Datapath,
    /// The options of all sockets, as far as this user may set them.
    pub(crate) options: SocketOptions,
    /// One permit for each further connection.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    /// Pending accepts for each listener.
    pub(crate) accepts: usize,
    /// Permits for attempts beyond the first of each client.
    pub(crate) extra_attempts: Arc<Semaphore>,
    pub(crate) control_clients: ClientLimits,
    pub(crate) memory: Memory,
    /// Sessions that wait for descriptors or memory.
    pub(crate) shortage: Shortage,
    /// Cancelled to abort the open connections of all instances.
    pub(crate) abort: CancellationToken,
}

impl Shared {
    /// The number of open connections, including connections that are being closed.
    pub(crate) fn open(&self) -> usize {
        self.max_connections - self.permits.available_permits()
    }
}
