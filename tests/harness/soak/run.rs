//! A run: many concurrent scenarios through one program, and the checks after them.
//!
//! Invariant: a run returns statistics only if every scenario was right, the program holds no more
//! than before, and its reports agree with its peers.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    Plan, Statistics, Target,
    backend_listener::{BackendListener, on},
    find_violations,
    lane::{Client, Context, Lane, ScenarioResult},
    leak_checks::{self, Baseline, Ports},
};
use crate::{
    Balance, Builder, Namespace, Network, Peer, Process, ReservedPort, RunDir, Session, TIMEOUT,
    Topology, eventually, exchange,
};

/// Concurrent scenarios. A power of two, so that consecutive addresses hash to as many lanes.
const LANES: usize = 32;

/// The parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Datapath and hosts.
    pub target: Target,
    /// Seed of all plans.
    pub seed: u64,
    /// Number of scenarios, or time.
    pub limit: Limit,
}

/// Which scenarios belong to a run.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// All that start within this time.
    Time(Duration),
    /// This many.
    Count(u64),
    /// Only the scenario with this number, this many times.
    Only(u64, u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "--seconds {:.0}", time.as_secs_f64().ceil()),
            Self::Count(scenarios) => write!(f, "--scenarios {scenarios}"),
            Self::Only(number, times) => write!(f, "--only {number} --times {times}"),
        }
    }
}

/// A failure in a run.
#[derive(Debug)]
pub struct Failure {
    run: Run,
    /// The scenario that failed, if the failure belongs to one.
    plan: Option<Plan>,
    /// The client address of the scenario.
    client: Option<SocketAddr>,
    seen: String,
}

impl Failure {
    /// Appends what the program has logged about the client.
    fn add_log(&mut self, balance: &Balance) {
        let Some(client) = self.client.map(|client| format!("\"{client}\"")) else { return };
        for line in balance.log().iter().filter(|line| line.contains(&client)) {
            self.seen.push('\n');
            self.seen.push_str(line);
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run: Run { target, seed, limit }, plan, seen, .. } = self;
        let again = format!("again: cargo xtask soak --datapath {target} --seed {seed}");
        match plan {
            // The plan is the same in every repetition, the timing is not.
            Some(plan) => {
                let limit = Limit::Only(plan.number, 1000);
                write!(f, "on {target}: {plan}\n{seen}\n{again} {limit}")
            }
            None => write!(f, "on {target}, seed {seed}: {seen}\n{again} {limit}"),
        }
    }
}

/// The hosts and the run directory.
struct Environment {
    network: Option<Network>,
    dir: RunDir,
}

impl Environment {
    fn host(&self, peer: Peer) -> Option<&Namespace> {
        self.network.as_ref().map(|network| network.peer(peer))
    }

    /// Client addresses to try.
    fn clients(&self) -> Vec<IpAddr> {
        let numbers = 10..10 + 2 * LANES as u8;
        match &self.network {
            None => numbers.map(|number| Ipv4Addr::new(127, 11, 1, number).into()).collect(),
            Some(network) => network.add_client_addresses(numbers),
        }
    }

    fn start(
        &self,
        target: Target,
        listeners: &[[BackendListener; 2]],
    ) -> (Balance, Option<ReservedPort>) {
        let mut builder = self.dir.use_in(Builder::new(target.datapath));
        for group in 0..2 {
            for listener in listeners {
                builder = builder.channel(listener[group].address());
            }
            // `%`: hash of the client's address; also ends the group.
            builder = builder.operand("%");
        }
        match &self.network {
            None => (builder.start(), None),
            Some(network) => {
                let (balance, port) = builder.start_within(network);
                (balance, Some(port))
            }
        }
    }
}

/// The results of all scenarios.
#[derive(Default)]
struct Results {
    statistics: Statistics,
    failures: Vec<Failure>,
    /// By client address.
    scenarios: HashMap<SocketAddr, (u64, ScenarioResult)>,
}

impl Run {
    /// Executes the run; calls `progress` with the statistics after each scenario. Returns `None`
    /// where the hosts cannot be created.
    ///
    /// # Errors
    /// The failed scenarios, or another failure of the run.
    pub fn execute(
        &self,
        progress: &(dyn Fn(&Statistics) + Sync),
    ) -> Result<Option<Statistics>, Vec<Failure>> {
        // AssertUnwindSafe: everything that the closure creates is dropped by the unwinding.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.run_all(progress)));
        outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref().copied());
            let seen = text.unwrap_or("a panic without a message").to_owned();
            Err(vec![Failure { run: *self, plan: None, client: None, seen }])
        })
    }

    fn run_all(
        &self,
        progress: &(dyn Fn(&Statistics) + Sync),
    ) -> Result<Option<Statistics>, Vec<Failure>> {
        let network = match self.target.apart {
            None => None,
            Some(family) => match Network::new(Topology::Apart, family) {
                None => return Ok(None),
                network => network,
            },
        };
        let environment = Environment { network, dir: RunDir::new() };
        let backends =
            environment.network.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |n| n.backend().ip());
        let listeners: Vec<_> = (0..LANES)
            .map(|_| {
                [(); 2].map(|()| {
                    let host = environment.host(Peer::Server);
                    let mut listener = on(host, || BackendListener::at(backends));
                    listener.open(None, host);
                    listener
                })
            })
            .collect();
        let (balance, _port) = environment.start(self.target, &listeners);
        self.run_scenarios(&environment, balance, listeners, progress)
    }

    fn run_scenarios(
        &self,
        environment: &Environment,
        mut balance: Balance,
        listeners: Vec<[BackendListener; 2]>,
        progress: &(dyn Fn(&Statistics) + Sync),
    ) -> Result<Option<Statistics>, Vec<Failure>> {
        let (dir, listen_address) = (&environment.dir, balance.address());
        let process = balance.process();
        let is_over = |lane: &Lane, client: SocketAddr| {
            if process.is_connected_with(client) {
                return false;
            }
            let own = lane.listeners.each_ref().map(BackendListener::address);
            dir.show(listen_address)
                .iter()
                .all(|row| row.current == 0 || !own.contains(&row.address))
        };
        let context = Context {
            listen_address,
            clients: environment.host(Peer::Client),
            backends: environment.host(Peer::Server),
            is_over: &is_over,
        };
        let ports_of = |listeners: &[BackendListener; 2]| {
            listeners.each_ref().map(|listener| listener.address().port())
        };
        let ports = Ports {
            listen_address: listen_address.port(),
            listeners: listeners.iter().flat_map(ports_of).collect(),
        };
        let lanes = find_lanes(listeners, environment.clients(), &context, process);
        // By now the program has created what it creates once, such as the filter on an interface.
        let before = Baseline::settled(&balance, dir, &ports);
        let start = Instant::now();
        let results = Mutex::new(Results::default());
        let next = AtomicU64::new(0);
        // Memory of the program in the middle of the run.
        let halfway = OnceLock::new();
        thread::scope(|scope| {
            for mut lane in lanes {
                let (results, next, context, halfway) = (&results, &next, &context, &halfway);
                scope.spawn(move || {
                    loop {
                        let nth = next.fetch_add(1, Relaxed);
                        let Some(number) = self.number(nth, start) else { break };
                        if self.is_half_over(nth, start) {
                            halfway.get_or_init(|| process.resident());
                        }
                        let plan = Plan::new(self.seed, number);
                        let result = lane.run_scenario(&plan, context);
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results.add(self, plan, result);
                        results.statistics.time = start.elapsed();
                        progress(&results.statistics);
                        if !results.failures.is_empty() {
                            break;
                        }
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        if results.failures.is_empty() {
            for (address, session) in leak_checks::left_over(&balance, dir) {
                let seen = format!("its session is still open: {session}");
                results.fail(self, address, &seen);
            }
        }
        if results.failures.is_empty() {
            before.settle(&balance, dir, self.target.datapath, &ports);
            leak_checks::assert_no_growth(&balance, halfway.into_inner());
            self.check_totals(&mut results, &mut balance, dir);
        }
        for failure in &mut results.failures {
            failure.add_log(&balance);
        }
        if results.failures.is_empty() {
            Ok(Some(results.statistics))
        } else {
            Err(results.failures)
        }
    }

    /// Number of the `nth` scenario to start; `None` after the end of the run.
    fn number(&self, nth: u64, start: Instant) -> Option<u64> {
        match self.limit {
            Limit::Time(time) => (start.elapsed() < time).then_some(nth),
            Limit::Count(most) => (nth < most).then_some(nth),
            Limit::Only(number, times) => (nth < times).then_some(number),
        }
    }

    /// Whether the `nth` scenario belongs to the second half of the run.
    fn is_half_over(&self, nth: u64, start: Instant) -> bool {
        match self.limit {
            Limit::Time(time) => start.elapsed() >= time / 2,
            Limit::Count(scenarios) | Limit::Only(_, scenarios) => nth >= scenarios / 2,
        }
    }

    /// Stops the program and compares its totals with what its peers saw.
    fn check_totals(&self, results: &mut Results, balance: &mut Balance, dir: &RunDir) {
        let rows = dir.show(balance.address());
        balance.signal(Signal::SIGTERM);
        let stopped = balance.wait_stopped(TIMEOUT);
        let sessions = leak_checks::sessions(balance);
        let sum = |of: fn(&Session) -> u64| sessions.iter().map(of).sum::<u64>();
        let (sent, rcvd) = (sum(|session| session.sent), sum(|session| session.rcvd));
        let shown = (rows.iter().map(|r| r.sent).sum(), rows.iter().map(|r| r.rcvd).sum());
        assert_eq!(shown, (sent, rcvd), "bytes of all channels and of all sessions");
        assert_eq!((stopped.sent, stopped.rcvd), (sent, rcvd), "bytes in all and of all sessions");
        assert_eq!(stopped.connections, sessions.len() as u64 + stopped.unserved, "connections");
        // Of several sessions with one client address the last one counts, as in the results.
        let sessions: HashMap<_, _> = sessions.iter().map(|one| (one.client, one)).collect();
        let mut wrong = Vec::new();
        for (address, (_, result)) in &results.scenarios {
            let session = sessions.get(address).copied();
            wrong.extend(leak_checks::disagreement(result, session).map(|wrong| (*address, wrong)));
            if let Some(Session { datapath, .. }) = session {
                *results.statistics.sessions.entry(datapath.clone()).or_default() += 1;
            }
        }
        for (address, wrong) in wrong {
            results.fail(self, address, &wrong);
        }
    }
}

impl Results {
    /// Adds a finished scenario.
    fn add(&mut self, run: &Run, plan: Plan, result: ScenarioResult) {
        self.statistics.add(&plan, &result);
        let ScenarioResult { client, backends, address, .. } = &result;
        let violations = find_violations(&plan, client, backends);
        if violations.is_empty() {
            self.scenarios.insert(*address, (plan.number, result));
        } else {
            let seen = format!("{violations:#?}\nclient: {client:#?}\nbackends: {backends:#?}");
            let (plan, client) = (Some(plan), Some(*address));
            self.failures.push(Failure { run: *run, plan, client, seen });
        }
    }

    /// Records a failure of that client's scenario that was found after the scenario.
    fn fail(&mut self, run: &Run, client: SocketAddr, wrong: &str) {
        let (number, result) =
            self.scenarios.get(&client).unwrap_or_else(|| panic!("{client}: {wrong}"));
        let seen = format!("{wrong}\n{result:#?}");
        let plan = Some(Plan::new(run.seed, *number));
        self.failures.push(Failure { run: *run, plan, client: Some(client), seen });
    }
}

/// Finds a client address for each pair of backends.
fn find_lanes(
    listeners: Vec<[BackendListener; 2]>,
    clients: Vec<IpAddr>,
    context: &Context,
    process: Process,
) -> Vec<Lane> {
    let mut found: Vec<Option<Client>> = listeners.iter().map(|_| None).collect();
    for ip in clients {
        let mut client = Client::new(ip);
        let mut stream = client.connect(context, None);
        let address = stream.local_addr().expect("getsockname");
        assert!(
            process.is_connected_with(address),
            "{address} is not found in the kernel's tables"
        );
        let (lane, mut server) = eventually(TIMEOUT, "the client reaches a backend", || {
            let mut listeners = listeners.iter().enumerate();
            let called = listeners
                .find_map(|(i, [listener, _])| Some((i, listener.accept(Duration::ZERO)?)));
            called.ok_or_else(|| "not yet".to_owned())
        });
        // The datapath creates what it needs for each interface.
        (0..5).for_each(|_| exchange(&mut stream, &mut server));
        found[lane].get_or_insert(client);
    }
    let lanes = listeners
        .into_iter()
        .zip(found)
        .filter_map(|(listeners, client)| Some(Lane { listeners, client: client? }));
    let lanes: Vec<_> = lanes.collect();
    assert!(
        lanes.len() > LANES / 2,
        "{} addresses of clients lead to backends of their own",
        lanes.len()
    );
    lanes
}
