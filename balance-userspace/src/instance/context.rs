//! The state of an instance, which all threads of its process share.
//!
//! Invariant: the context is created once, before the first client is accepted. Each part that
//! changes has its own lock or channel.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::args::Args,
    datapath::Datapath,
    instance::{settings::Settings, shared::Shared, table::Table, totals::Totals},
    io::{connect::Connector, stream::SocketOptions},
};

/// The state of an instance.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) table: Arc<Table>,
    pub(crate) datapath: Datapath,
    pub(crate) connector: Connector,
    pub(crate) settings: watch::Sender<Settings>,
    /// The arguments that table and settings were last built from. A reconfiguration holds the lock
    /// until it is complete.
    pub(crate) active_args: Mutex<Args>,
    /// Options to set on accepted sockets that did not inherit them from their listener.
    pub(crate) accepted_options: Option<SocketOptions>,
    /// One permit for each further connection of this instance.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    pub(crate) totals: Arc<Totals>,
    /// The address of the listener; `None` if the kernel did not report it.
    pub(crate) address: Option<SocketAddr>,
    /// The control socket has a group whose members may read.
    pub(crate) has_readers: bool,
    /// Notified when all addresses of a channel have failed.
    pub(crate) re_resolve: Notify,
    /// Cancelled when the instance stops accepting.
    pub(crate) stop: CancellationToken,
    /// Cancelled to abort the open connections of this instance.
    pub(crate) abort: CancellationToken,
}

impl Context {
    /// The number of open connections, including connections that are being closed.
    pub(crate) fn open(&self) -> usize {
        self.max_connections - self.permits.available_permits()
    }
}
