//! What all threads of an instance share.
//!
//! Invariant: it is made once, before the first client is accepted; what changes in it is behind a lock
//! or a channel of its own.

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

/// What all threads share.
pub(crate) struct Context {
    pub(crate) table: Arc<Table>,
    pub(crate) datapath: Datapath,
    pub(crate) connector: Connector,
    pub(crate) settings: watch::Sender<Settings>,
    /// The arguments that table and settings have been made from last. Who changes them holds this
    /// until all is changed.
    pub(crate) active_args: Mutex<Args>,
    /// What accepted sockets do not have from their listener.
    pub(crate) accepted_options: Option<SocketOptions>,
    /// Room for that many more connections.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    /// Accepts that wait for each listener at a time.
    pub(crate) accepts: usize,
    pub(crate) control_clients: client_limiter::ClientLimits,
    pub(crate) memory: Memory,
    /// Sessions that wait for what the process has run out of.
    pub(crate) shortage: Shortage,
    pub(crate) totals: Arc<Totals>,
    /// Where it listens.
    pub(crate) address: Option<std::net::SocketAddr>,
    /// Told when all addresses of a channel have failed.
    pub(crate) re_resolve: Notify,
    /// Accept no more.
    pub(crate) stop: CancellationToken,
    /// End what stands.
    pub(crate) abort: CancellationToken,
}

impl Context {
    /// Connections at the moment, those that are being ended included.
    pub(crate) fn open(&self) -> usize {
        self.max_connections - self.permits.available_permits()
    }
}
