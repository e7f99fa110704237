//! Measuring one case with one peer, once.
//!
//! Invariant: network, server, peer and client are new for each measurement and gone after it.

mod churn;
mod memory;
mod timed;

pub(crate) use self::memory::{TOGETHER, wait_for_lingering};

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    helper::{self, Server},
    interrupt,
    job::ClientJob,
    network::Network,
    peer::{Peer, Proxy, Setting},
    process::{LOOK, Process},
    scenario::{Case, Way},
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
pub(crate) struct Measured {
    /// The main one comes first.
    pub(crate) figures: Vec<Figure>,
    /// What did not work as it should, though there are figures.
    pub(crate) remarks: Vec<String>,
}

/// All that is the same for every measurement of a run.
pub(crate) struct Bench<'a> {
    /// How long to measure.
    pub(crate) window: Duration,
    /// How many workers a peer gets.
    pub(crate) workers: usize,
    /// For configurations and logs.
    pub(crate) directory: &'a Path,
}

impl Measured {
    fn add(&mut self, name: impl Into<String>, better: Better, value: f64) {
        self.figures.push(Figure { name: name.into(), better, value });
    }
}

impl Bench<'_> {
    /// Measures.
    pub(crate) fn measure(&self, case: &Case, peer: &Peer) -> Result<Measured> {
        // A peer has to do without the kernel's forwarding.
        let network =
            if case.apart { Network::apart(peer.is_direct())? } else { Network::loopback() };
        match case.way {
            Way::Timed(_) | Way::Bytes => timed::measure(self, case, peer, &network),
            Way::Memory(unit, bytes) => {
                memory::measure(self, case, peer, &network, (unit, bytes as f64))
            }
            Way::Churn => churn::measure(self, case, peer, &network),
        }
    }

    fn proxy(
        &self,
        case: &Case,
        peer: &Peer,
        network: &Network,
        servers: &[&Server],
    ) -> Result<Proxy> {
        let backends: Vec<_> = servers.iter().map(|server| server.address).collect();
        peer.start(&Setting {
            place: &network.middle,
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
        proxy: &Proxy,
        server: &Server,
    ) -> Result<Process> {
        let job = ClientJob {
            load: case.load.clone(),
            targets: proxy.targets.clone(),
            control: server.control.clone(),
            warm_up: (self.window / 4).min(Duration::from_secs(1)),
            window: self.window,
        };
        helper::client(&job, &network.client, self.directory)
    }
}

/// Waits that long, or until interrupted.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        thread::sleep(LOOK);
    }
    Ok(())
}
