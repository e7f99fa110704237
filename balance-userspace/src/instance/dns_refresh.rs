//! Names of servers, resolved anew while balance runs.
//!
//! Invariant: the resolver blocks a thread of its own and never a worker; a name that does not
//! resolve any more keeps the addresses it had, and the log says once that it does not and once that it
//! does again. Which names there are is asked of the table at
//! every round: commands change them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    select,
    sync::{Notify, watch},
    task::spawn_blocking,
};
use tracing::{info, warn};

use crate::{
    error::StartError,
    instance::{settings::Settings, table::Table, timer::sleep_for},
    io::resolve,
    selection::{ChannelKey, Effect, ServerName},
};

/// The shortest time between two rounds, however many connects fail.
const LEAST: Duration = Duration::from_secs(5);

/// Resolves all names at every interval, if there is one, and when a worker says that all addresses
/// of a channel have failed.
pub(crate) async fn watch(
    table: &Arc<Table>,
    mut settings: watch::Receiver<Settings>,
    failed: &Notify,
) {
    let mut failing = BTreeSet::new();
    loop {
        due(&mut settings, failed).await;
        round(table, &mut failing).await;
        tokio::time::sleep(LEAST).await;
    }
}

/// Resolves each host once, for all channels that lead there. `failing` are the hosts that did not
/// resolve in the last round.
async fn round(table: &Arc<Table>, failing: &mut BTreeSet<String>) {
    let mut hosts: BTreeMap<String, Vec<(ChannelKey, ServerName)>> = BTreeMap::new();
    for (key, name) in table.lock().selector.named_channels() {
        hosts.entry(name.host.clone()).or_default().push((key, name));
    }
    failing.retain(|host| hosts.contains_key(host));
    for (host, channels) in hosts {
        let name = host.clone();
        let Ok(found) = spawn_blocking(move || resolve::addresses(&name, 0)).await else {
            continue;
        };
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(error) => {
                for (key, name) in &channels {
                    table.lock().selector.unresolved(*key, name, SystemTime::now());
                }
                tell_failure(failing, host, &error);
                continue;
            }
        };
        if failing.remove(&host) {
            info!(host, "server name resolves again");
        }
        let mut changed = false;
        for (key, name) in &channels {
            let mut addresses = addresses.clone();
            addresses.iter_mut().for_each(|address| address.set_port(name.port));
            changed |= table.lock().selector.resolved(*key, name, addresses) == Effect::Changed;
        }
        if changed {
            info!(host, address = %addresses[0].ip(), "server address changed");
        }
    }
}

fn tell_failure(failing: &mut BTreeSet<String>, host: String, error: &StartError) {
    if !failing.contains(&host) {
        warn!(host, %error, "cannot resolve server name, keeping its last addresses");
        failing.insert(host);
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
    use crate::cli::args::Args;

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
