//! Names of servers, resolved anew while balance runs.
//!
//! Invariant: the resolver blocks a thread of its own and never a worker; a name that does not
//! resolve any more keeps the addresses it had.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, task::spawn_blocking, time::timeout};
use tracing::{debug, info};

use crate::{resolve, selection::ChannelId, table::Table};

/// A channel whose server was given by name.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) id: ChannelId,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The shortest time between two rounds, however many connects fail.
const LEAST: Duration = Duration::from_secs(5);

/// Resolves all names at every interval (for ever only on demand if it is `None`), and when a
/// worker says that all addresses of a channel have failed.
pub(crate) async fn watch(
    table: &Arc<Table>,
    names: Vec<Named>,
    interval: Option<Duration>,
    failed: &Notify,
) {
    if names.is_empty() {
        std::future::pending::<()>().await;
    }
    loop {
        match interval {
            Some(interval) => drop(timeout(interval, failed.notified()).await),
            None => failed.notified().await,
        }
        for name in &names {
            let Named { id, host, port } = name.clone();
            let found = spawn_blocking(move || resolve::addresses(&host, port)).await;
            match found {
                Ok(Ok(addresses)) => {
                    let first = addresses[0];
                    let changed = table.lock().selector.resolved(id, addresses);
                    if changed == Ok(crate::selection::Changed::Yes) {
                        info!(host = name.host, address = %first, "a name has other addresses now");
                    }
                }
                Ok(Err(error)) => debug!(%error, "a name keeps the addresses it had"),
                Err(_) => {}
            }
        }
        tokio::time::sleep(LEAST).await;
    }
}
