//! Names of servers, resolved anew while balance runs.
//!
//! Invariant: the resolver blocks a thread of its own and never a worker; a name that does not
//! resolve any more keeps the addresses it had. Which names there are is asked of the table at
//! every round: commands change them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    select,
    sync::{Notify, watch},
    task::spawn_blocking,
};
use tracing::{debug, info};

use crate::{lifecycle::sleep_for, resolve, selection::Changed, settings::Settings, table::Table};

/// The shortest time between two rounds, however many connects fail.
const LEAST: Duration = Duration::from_secs(5);

/// Resolves all names at every interval, if there is one, and when a worker says that all addresses
/// of a channel have failed.
pub(crate) async fn watch(
    table: &Arc<Table>,
    mut settings: watch::Receiver<Settings>,
    failed: &Notify,
) {
    loop {
        due(&mut settings, failed).await;
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

/// Waits until it is time for a round. An interval that changes meanwhile counts from the last.
async fn due(settings: &mut watch::Receiver<Settings>, failed: &Notify) {
    let start = Instant::now();
    loop {
        let interval = settings.borrow_and_update().resolve_interval;
        let left = interval.map(|interval| interval.saturating_sub(start.elapsed()));
        select! {
            () = failed.notified() => return,
            () = sleep_for(left) => return,
            Ok(()) = settings.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::time::timeout;

    use super::*;
    use crate::args::Args;

    fn every(interval: Option<Duration>) -> Settings {
        let args = Args::try_parse_from(["balance", "25"]).unwrap();
        Settings { resolve_interval: interval, ..Settings::of(&args) }
    }

    #[tokio::test]
    async fn a_round_is_due_by_the_interval_in_force() {
        let (sender, mut settings) = watch::channel(every(None));
        let failed = Notify::new();
        let mut due = std::pin::pin!(due(&mut settings, &failed));
        for interval in [None, Some(Duration::from_secs(3600))] {
            sender.send_replace(every(interval));
            assert!(timeout(Duration::from_millis(20), &mut due).await.is_err());
        }
        sender.send_replace(every(Some(Duration::from_millis(1))));
        timeout(Duration::from_secs(30), due).await.unwrap();
    }
}
