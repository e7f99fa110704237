//! The state that all threads of an instance share.
//!
//! Invariant: the context is created once, before the first client is accepted. Each part that
//! changes has its own lock or channel.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::args::Args,
    control::server::client_limiter,
    datapath::Datapath,
    instance::{settings::Settings, shortage::Shortage, table::Table, totals::Totals},
    io::{connect::Connector, stream::SocketOptions},
    sys::memory::Memory,
};

/// The shared state of an instance.
pub(crate) struct Context {
    pub(crate) table: Arc<Table>,
    pub(crate) datapath: Datapath,
    pub(crate) connector: Connector,
    pub(crate) settings: watch::Sender<Settings>,
    /// The arguments that table and settings were last built from. A reconfiguration holds the lock
    /// until it is complete.
    pub(crate) active_args: Mutex<Args>,
    /// Options to set on accepted sockets that did not inherit them from their listener.
    pub(crate) accepted_options: Option<SocketOptions>,
    /// One permit for each further connection.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    /// Pending accepts for each listener.
    pub(crate) accepts: usize,
    pub(crate) control_clients: client_limiter::ClientLimits,
    pub(crate) memory: Memory,
    /// Sessions that wait for descriptors or memory.
    pub(crate) shortage: Shortage,
    pub(crate) totals: Arc<Totals>,
    /// The address of the listener; `None` if the kernel did not report it.
    pub(crate) address: Option<std::net::SocketAddr>,
    /// Notified when all addresses of a channel have failed.
    pub(crate) re_resolve: Notify,
    /// Cancelled when the instance stops accepting.
    pub(crate) stop: CancellationToken,
    /// Cancelled to abort the open connections.
    pub(crate) abort: CancellationToken,
}

impl Context {
    /// The number of open connections, including connections that are being closed.
    pub(crate) fn open(&self) -> usize {
        self.max_connections - self.permits.available_permits()
    }
}
