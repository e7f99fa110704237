//! Names of servers, resolved anew while balance runs.
//!
//! Invariant: the resolver blocks a thread of its own and never a worker; a name that does not
//! resolve any more keeps the addresses it had. Which names there are is asked of the table at
//! every round: commands change them.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, task::spawn_blocking, time::timeout};
use tracing::{debug, info};

use crate::{resolve, selection::Changed, table::Table};

/// The shortest time between two rounds, however many connects fail.
const LEAST: Duration = Duration::from_secs(5);

/// Resolves all names at every interval (only on demand if it is `None`), and when a worker
/// says that all addresses of a channel have failed.
pub(crate) async fn watch(table: &Arc<Table>, interval: Option<Duration>, failed: &Notify) {
    loop {
        match interval {
            Some(interval) => drop(timeout(interval, failed.notified()).await),
            None => failed.notified().await,
        }
        let names = table.lock().selector.named();
        for (key, name) in names {
            let (host, port) = (name.host.clone(), name.port);
            let found = spawn_blocking(move || resolve::addresses(&host, port)).await;
            match found {
                Ok(Ok(addresses)) => {
                    let first = addresses[0];
                    let changed = table.lock().selector.resolved(key, &name, addresses);
                    if changed == Changed::Yes {
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
