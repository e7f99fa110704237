//! Resolves the names of servers again while the instance runs.
//!
//! Each round reads the names from the table, because commands change them.
//!
//! Invariants: the resolver blocks a thread of its own and never a worker. A name that no longer
//! resolves keeps its last addresses. The log reports each failing name once, and once when the
//! name resolves again.

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
    selection::{ChannelKey, Effect, HostName},
};

/// The shortest time between two rounds, however many connects fail.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Resolves all names at every interval, if the settings have one, and when `re_resolve` is
/// notified.
pub(crate) async fn watch(
    table: &Arc<Table>,
    mut settings: watch::Receiver<Settings>,
    re_resolve: &Notify,
) {
    let mut failing = BTreeSet::new();
    loop {
        wait_until_due(&mut settings, re_resolve).await;
        round(table, &mut failing).await;
        tokio::time::sleep(MIN_INTERVAL).await;
    }
}

/// Resolves each host once for all channels with that host. `failing` holds the hosts that did not
/// resolve in the last round.
async fn round(table: &Arc<Table>, failing: &mut BTreeSet<String>) {
    let mut hosts: BTreeMap<String, Vec<(ChannelKey, HostName)>> = BTreeMap::new();
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
                log_failure(failing, host, &error);
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

fn log_failure(failing: &mut BTreeSet<String>, host: String, error: &StartError) {
    if !failing.contains(&host) {
        warn!(host, %error, "cannot resolve server name, keeping its last addresses");
        failing.insert(host);
    }
}

/// Waits until the next round is due. A changed interval counts from the start of the wait.
async fn wait_until_due(settings: &mut watch::Receiver<Settings>, re_resolve: &Notify) {
    let start = Instant::now();
    loop {
        let interval = settings.borrow_and_update().resolve_interval;
        let left = interval.map(|interval| interval.saturating_sub(start.elapsed()));
        select! {
            () = re_resolve.notified() => return,
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
    async fn a_round_is_due_after_the_interval_of_the_current_settings() {
        let (sender, mut settings) = watch::channel(every(None));
        let re_resolve = Notify::new();
        let mut due = std::pin::pin!(wait_until_due(&mut settings, &re_resolve));
        for interval in [None, Some(Duration::from_secs(3600))] {
            sender.send_replace(every(interval));
            assert!(timeout(Duration::from_millis(20), &mut due).await.is_err());
        }
        sender.send_replace(every(Some(Duration::from_millis(1))));
        timeout(Duration::from_secs(30), due).await.unwrap();
    }
}
