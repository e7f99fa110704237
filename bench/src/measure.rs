//! One measurement of one case with one proxy.
//!
//! Invariant: network, server, proxy and client are new for each measurement and end with it.

mod churn;
mod memory;
mod timed;

pub(crate) use self::memory::{PROXY_AND_KERNEL, wait_for_time_wait};

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    endpoint::{self, Server},
    interrupt,
    messages::ClientConfig,
    network::Network,
    process::{POLL_INTERVAL, Process},
    proxy::{Proxy, RunningProxy, StartConfig},
    scenario::{Case, Method},
};

/// Which direction of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// A larger value is better.
    Higher,
    /// A smaller value is better.
    Lower,
}

/// A measured value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The name with the unit.
    pub(crate) name: String,
    /// Which direction is better.
    pub(crate) better: Better,
    /// The value.
    pub(crate) value: f64,
}

/// The result of a measurement.
#[derive(Default)]
pub(crate) struct Measurement {
    /// The figures, the main figure first.
    pub(crate) figures: Vec<Figure>,
    /// Problems that did not prevent the measurement.
    pub(crate) remarks: Vec<String>,
}

/// What all measurements of a run have in common.
pub(crate) struct RunContext<'a> {
    /// Length of the measuring window.
    pub(crate) window: Duration,
    /// Number of workers of a proxy.
    pub(crate) workers: usize,
    /// The directory of configuration files and logs.
    pub(crate) directory: &'a Path,
}

impl Measurement {
    fn add(&mut self, name: impl Into<String>, better: Better, value: f64) {
        self.figures.push(Figure { name: name.into(), better, value });
    }
}

impl RunContext<'_> {
    /// Measures a case with a proxy.
    pub(crate) fn measure(&self, case: &Case, proxy: &Proxy) -> Result<Measurement> {
        // Only the direct measurement uses the kernel's forwarding.
        let network = if case.uses_namespaces {
            Network::namespaces(proxy.is_direct())?
        } else {
            Network::loopback()
        };
        match case.method {
            Method::Operations(_) | Method::Throughput => {
                timed::measure(self, case, proxy, &network)
            }
            Method::Memory(unit, bytes) => {
                memory::measure(self, case, proxy, &network, (unit, bytes as f64))
            }
            Method::Churn => churn::measure(self, case, proxy, &network),
        }
    }

    fn start_proxy(
        &self,
        case: &Case,
        proxy: &Proxy,
        network: &Network,
        servers: &[&Server],
    ) -> Result<RunningProxy> {
        let backends: Vec<_> = servers.iter().map(|server| server.address).collect();
        proxy.start(&StartConfig {
            host: &network.middle,
            backends: &backends,
            directory: self.directory,
            workers: self.workers,
            // Some connections that have been replaced may not be closed yet.
            connections: case.connections() + 500,
        })
    }

    fn client(
        &self,
        case: &Case,
        network: &Network,
        running: &RunningProxy,
        server: &Server,
    ) -> Result<Process> {
        let config = ClientConfig {
            load: case.load.clone(),
            targets: running.targets.clone(),
            counters: server.counters.clone(),
            warm_up: (self.window / 4).min(Duration::from_secs(1)),
            window: self.window,
        };
        endpoint::client(&config, &network.client, self.directory)
    }
}

/// Waits for this time or until a signal arrives.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
