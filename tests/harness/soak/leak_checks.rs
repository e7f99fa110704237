//! Compares what the program holds and reports with what its peers did and saw.
//!
//! Invariant: a comparison is exact where both sides know the value, and a bound where a side was
//! cut off. Only memory has a tolerance: kernel memory is that of the whole machine, and allocators
//! keep freed pages.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{StreamEnd, lane::ScenarioResult, verdict::is_turned_away};
use crate::{Balance, Datapath, KernelMemory, RunDir, Session, eventually, kernel_entries};

/// How long the program may take to release resources.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval between polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Tolerated growth of kernel memory in bytes.
const MEMORY: u64 = 64 << 20;

/// Tolerated growth of the program's memory in bytes, from the middle of the run to its end. At
/// most 1.6 MB was measured, after 20 scenarios as after 4000.
const OWN_MEMORY: u64 = 4 << 20;

/// Ports that identify the program's connections.
#[derive(Debug)]
pub(super) struct Ports {
    /// Port that the program listens on.
    pub(super) listen_address: u16,
    /// Ports of the backends.
    pub(super) listeners: HashSet<u16>,
}

/// Resources of the program before the first scenario.
#[derive(Debug)]
pub(super) struct Baseline {
    sockets: usize,
    descriptors: usize,
    threads: u64,
    kernel: KernelMemory,
}

impl Baseline {
    /// Measures when the program has no open connection.
    pub(super) fn settled(balance: &Balance, dir: &RunDir, ports: &Ports) -> Self {
        let process = balance.process();
        dir.show_at_rest(balance.address());
        at_most("open connections", 0, || Ok(connections(process.0, ports)));
        Self {
            sockets: process.sockets(),
            descriptors: process.descriptors(),
            threads: process.threads(),
            kernel: KernelMemory::now(),
        }
    }

    /// Waits until the program holds no more than at the baseline; panics if it does not release
    /// the rest.
    pub(super) fn settle(
        &self,
        balance: &Balance,
        dir: &RunDir,
        datapath: Datapath,
        ports: &Ports,
    ) {
        let process = balance.process();
        dir.show_at_rest(balance.address());
        at_most("sockets", self.sockets, || Ok(process.sockets()));
        at_most("descriptors", self.descriptors, || Ok(process.descriptors()));
        at_most("map entries", 0, || kernel_entries(process.0, datapath));
        if datapath == Datapath::Splice {
            // Connections that could not be spliced use sockmap.
            at_most("map entries", 0, || kernel_entries(process.0, Datapath::Sockmap));
        }
        // io_uring keeps its kernel threads for a while.
        at_most("threads", self.threads as usize, || Ok(process.threads() as usize));
        at_most("open connections", 0, || Ok(connections(process.0, ports)));
        eventually(SETTLE_TIMEOUT, "kernel memory is released", || {
            match KernelMemory::now().growth_since(self.kernel) {
                growth if growth <= MEMORY => Ok(()),
                growth => Err(format!("{growth} bytes more than before")),
            }
        });
    }
}

/// Asserts that the program's memory has not grown in the second half of the run. `halfway` is
/// `None` when there were too few scenarios.
pub(super) fn assert_no_growth(balance: &Balance, halfway: Option<u64>) {
    let Some(halfway) = halfway else { return };
    let growth = balance.process().resident().saturating_sub(halfway);
    assert!(growth <= OWN_MEMORY, "{growth} bytes of memory more than {halfway} halfway");
}

/// Waits until no session is open; returns client and row of those that stay open.
pub(super) fn left_over(balance: &Balance, dir: &RunDir) -> Vec<(SocketAddr, String)> {
    let start = Instant::now();
    loop {
        let is_late = start.elapsed() > SETTLE_TIMEOUT;
        let sessions = dir.run_ok(balance.address(), "sessions");
        let client = |line: &str| line.split_whitespace().next()?.parse().ok();
        let open = sessions.lines().filter_map(|line| Some((client(line)?, line.to_owned())));
        let open: Vec<_> = open.collect();
        if open.is_empty() || is_late {
            return open;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until there are at most `most` of something.
fn at_most(what: &str, most: usize, look: impl Fn() -> Result<usize, String>) {
    eventually(SETTLE_TIMEOUT, &format!("{most} {what}"), || match look()? {
        found if found <= most => Ok(()),
        found => Err(found.to_string()),
    });
}

/// Number of the program's connections that are not in TIME_WAIT, including connections whose
/// socket is closed.
fn connections(process: u32, ports: &Ports) -> usize {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let is_open = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, remote, state] = words[..] else { return false };
        let with_client = port(local) == Some(ports.listen_address);
        let with_backend = port(remote).is_some_and(|port| ports.listeners.contains(&port));
        (with_client || with_backend) && !["0A", "06"].contains(&state)
    };
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{process}/net/{table}"));
    // A host without IPv6 has no tcp6.
    let there = tables.iter().filter(|path| fs::exists(path).unwrap_or(true));
    let count = |path: &String| {
        let table = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        table.lines().skip(1).filter(is_open).count()
    };
    there.map(count).sum()
}

/// The sessions in the log of the program, which has exited without warnings or errors.
pub(super) fn sessions(balance: &Balance) -> Vec<Session> {
    let events = balance.events();
    let troubles = events.iter().filter(|event| ["WARN", "ERROR"].contains(&event.level.as_str()));
    let troubles: Vec<_> = troubles.collect();
    assert!(troubles.is_empty(), "the program logged warnings or errors: {troubles:#?}");
    balance.sessions(0)
}

/// The difference between a scenario and the program's report of it, if there is one.
pub(super) fn disagreement(result: &ScenarioResult, session: Option<&Session>) -> Option<String> {
    let ScenarioResult { client, backends, .. } = result;
    let Some(session) = session else {
        let has_to = !is_turned_away(client, backends);
        return has_to.then(|| "the program has not logged the connection".to_owned());
    };
    let Some(backend) = backends.last() else {
        return (session.rcvd > 0)
            .then(|| format!("bytes received without a backend: {session:?}"));
    };
    for (from, to, counted) in [(client, backend, session.sent), (backend, client, session.rcvd)] {
        let whole = from.finished && to.end == Some(StreamEnd::Clean);
        if counted > from.sent || whole && counted != from.sent {
            return Some(format!("{counted} of {} bytes counted: {session:?}", from.sent));
        }
    }
    None
}
