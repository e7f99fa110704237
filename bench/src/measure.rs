//! Measuring one case with one proxy, once.
//!
//! Invariant: network, server, proxy and client are new for each measurement and gone after it.

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

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
}

/// A value measured once.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What it is, with its unit.
    pub(crate) name: String,
    /// Which way it is good.
    pub(crate) better: Better,
    /// How much it is.
    pub(crate) value: f64,
}

/// What a measurement brought.
#[derive(Default)]
pub(crate) struct Measurement {
    /// The main one comes first.
    pub(crate) figures: Vec<Figure>,
    /// What did not work as it should, though there are figures.
    pub(crate) remarks: Vec<String>,
}

/// All that is the same for every measurement of a run.
pub(crate) struct RunContext<'a> {
    /// How long to measure.
    pub(crate) window: Duration,
    /// How many workers a proxy gets.
    pub(crate) workers: usize,
    /// For configurations and logs.
    pub(crate) directory: &'a Path,
}

impl Measurement {
    fn add(&mut self, name: impl Into<String>, better: Better, value: f64) {
        self.figures.push(Figure { name: name.into(), better, value });
    }
}

impl RunContext<'_> {
    /// Measures.
    pub(crate) fn measure(&self, case: &Case, proxy: &Proxy) -> Result<Measurement> {
        // A proxy has to do without the kernel's forwarding.
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
            // Those that are replaced may not quite have gone.
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
        let job = ClientConfig {
            load: case.load.clone(),
            targets: running.targets.clone(),
            counters: server.counters.clone(),
            warm_up: (self.window / 4).min(Duration::from_secs(1)),
            window: self.window,
        };
        endpoint::client(&job, &network.client, self.directory)
    }
}

/// Waits that long, or until interrupted.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
