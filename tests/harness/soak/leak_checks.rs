//! What the program holds and what it says it has done, against what its peers have seen.
//!
//! Invariant: what is compared is exact where both sides know it, and a bound where one of them was
//! cut off; only memory has an allowance: the kernel's is the whole machine's, and allocators do not
//! give back to the page.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{StreamEnd, lane::ScenarioResult, verdict::is_turned_away};
use crate::{Balance, Datapath, KernelMemory, RunDir, Session, eventually, kernel_entries};

/// Time in which what is over is tidied up.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at what goes on.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the kernel's memory may have grown by.
const MEMORY: u64 = 64 << 20;

/// What the program's own may have grown by from halfway, among scenarios, to its rest at the end: that
/// was at most 1.6 MB, after 20 scenarios as after 4000.
const OWN_MEMORY: u64 = 4 << 20;

/// By which the program's ends of connections are known.
#[derive(Debug)]
pub(super) struct Ports {
    /// Where the program listens.
    pub(super) listen_address: u16,
    /// Where backends do.
    pub(super) listeners: HashSet<u16>,
}

/// What the program held before any scenario.
#[derive(Debug)]
pub(super) struct Baseline {
    sockets: usize,
    descriptors: usize,
    threads: u64,
    kernel: KernelMemory,
}

impl Baseline {
    /// As it is when it has no connection any more.
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

    /// Waits until the program holds no more than before; panics if it goes on to.
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
            // What could not be spliced.
            at_most("map entries", 0, || kernel_entries(process.0, Datapath::Sockmap));
        }
        // Threads of the kernel that work for a ring stay for a while.
        at_most("threads", self.threads as usize, || Ok(process.threads() as usize));
        at_most("open connections", 0, || Ok(connections(process.0, ports)));
        eventually(
            SETTLE_TIMEOUT,
            "the kernel's memory is free again",
            || match KernelMemory::now().growth_since(self.kernel) {
                growth if growth <= MEMORY => Ok(()),
                growth => Err(format!("{growth} bytes more than before")),
            },
        );
    }
}

/// Asserts that the second half of the scenarios has not taken more memory of the program's own; nothing is
/// known of halfway if there were too few.
pub(super) fn assert_no_growth(balance: &Balance, halfway: Option<u64>) {
    let Some(halfway) = halfway else { return };
    let growth = balance.process().resident().saturating_sub(halfway);
    assert!(growth <= OWN_MEMORY, "{growth} bytes of memory more than {halfway} halfway");
}

/// Waits until no session goes on; those that still do after a while, and what the program says of
/// them.
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

/// Waits until there is no more of something.
fn at_most(what: &str, most: usize, look: impl Fn() -> Result<usize, String>) {
    eventually(SETTLE_TIMEOUT, &format!("{most} {what}"), || match look()? {
        found if found <= most => Ok(()),
        found => Err(found.to_string()),
    });
}

/// Connections of the program, other than those that are only remembered (TIME_WAIT): also of sockets
/// that nobody has any more.
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
    // A host need not have IPv6.
    let there = tables.iter().filter(|path| fs::exists(path).unwrap_or(true));
    let count = |path: &String| {
        let table = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        table.lines().skip(1).filter(is_open).count()
    };
    there.map(count).sum()
}

/// What the program, which has ended, says in its log of all connections.
pub(super) fn sessions(balance: &Balance) -> Vec<Session> {
    let events = balance.events();
    let troubles = events.iter().filter(|event| ["WARN", "ERROR"].contains(&event.level.as_str()));
    let troubles: Vec<_> = troubles.collect();
    assert!(troubles.is_empty(), "the program complains: {troubles:#?}");
    balance.sessions(0)
}

/// What is wrong with what the program says of a scenario, if something is.
pub(super) fn disagreement(result: &ScenarioResult, session: Option<&Session>) -> Option<String> {
    let ScenarioResult { client, backends, .. } = result;
    let Some(session) = session else {
        let has_to = !is_turned_away(client, backends);
        return has_to.then(|| "the program knows nothing of it".to_owned());
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
