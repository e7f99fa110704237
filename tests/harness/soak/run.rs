//! A run: many lives at a time through one program, and what they have left when they are over.
//!
//! Invariant: a run ends with figures only if nothing was wrong with any life, the program holds no
//! more than before, and what it says it has done is what its peers saw.

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
    Figures, Plan, Setting,
    backend_listener::{Door, on},
    judge,
    lane::{Around, Client, Lane, Lived},
    leak_checks::{self, Before, Ports},
};
use crate::{
    Balance, Builder, Namespace, Network, PATIENCE, Peer, Process, ReservedPort, RunDir, Session,
    Topology, eventually, exchange,
};

/// Lives at a time. A power of two: addresses in a row come to as many lanes then.
const LANES: usize = 32;

/// What one run is.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where.
    pub setting: Setting,
    /// Of all plans.
    pub seed: u64,
    /// How far.
    pub limit: Limit,
}

/// Which lives belong to a run.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// All that begin within that time.
    Time(Duration),
    /// So many.
    Lives(u64),
    /// One life alone, so many times.
    Only(u64, u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "--seconds {:.0}", time.as_secs_f64().ceil()),
            Self::Lives(lives) => write!(f, "--lives {lives}"),
            Self::Only(number, times) => write!(f, "--only {number} --times {times}"),
        }
    }
}

/// What went wrong in a run.
#[derive(Debug)]
pub struct Failure {
    run: Run,
    /// The life in which it did, if it was in one alone.
    plan: Option<Plan>,
    /// And the address of its client.
    client: Option<SocketAddr>,
    seen: String,
}

impl Failure {
    /// Adds what the program has logged of the client.
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
        let Self { run: Run { setting, seed, limit }, plan, seen, .. } = self;
        let again = format!("again: cargo xtask soak --datapath {setting} --seed {seed}");
        match plan {
            // The plan is the same then, but not the moments at which things meet.
            Some(plan) => {
                let limit = Limit::Only(plan.number, 1000);
                write!(f, "on {setting}: {plan}\n{seen}\n{again} {limit}")
            }
            None => write!(f, "on {setting}, seed {seed}: {seen}\n{again} {limit}"),
        }
    }
}

/// The hosts, and addresses on them.
struct World {
    network: Option<Network>,
    dir: RunDir,
}

impl World {
    fn host(&self, peer: Peer) -> Option<&Namespace> {
        self.network.as_ref().map(|network| network.peer(peer))
    }

    /// Where clients can come from.
    fn clients(&self) -> Vec<IpAddr> {
        let numbers = 10..10 + 2 * LANES as u8;
        match &self.network {
            None => numbers.map(|number| Ipv4Addr::new(127, 11, 1, number).into()).collect(),
            Some(network) => network.more_clients(numbers),
        }
    }

    fn start(&self, setting: Setting, doors: &[[Door; 2]]) -> (Balance, Option<ReservedPort>) {
        let mut builder = self.dir.given_to(Builder::new(setting.datapath));
        for group in 0..2 {
            for door in doors {
                builder = builder.channel(door[group].address());
            }
            // By the client's address; ends the group, too.
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

/// Everything that happened.
#[derive(Default)]
struct Story {
    figures: Figures,
    failures: Vec<Failure>,
    /// By the client's address.
    lives: HashMap<SocketAddr, (u64, Lived)>,
}

impl Run {
    /// Does it; `progress` hears the figures after each life. `None` where the hosts cannot be had.
    ///
    /// # Errors
    /// The lives that went wrong, or what else did.
    pub fn go(
        &self,
        progress: &(dyn Fn(&Figures) + Sync),
    ) -> Result<Option<Figures>, Vec<Failure>> {
        // All that it has is its own, and gone then.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.take_place(progress)));
        outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref().copied());
            let seen = text.unwrap_or("a panic without a word").to_owned();
            Err(vec![Failure { run: *self, plan: None, client: None, seen }])
        })
    }

    fn take_place(
        &self,
        progress: &(dyn Fn(&Figures) + Sync),
    ) -> Result<Option<Figures>, Vec<Failure>> {
        let network = match self.setting.apart {
            None => None,
            Some(family) => match Network::new(Topology::Apart, family) {
                None => return Ok(None),
                network => network,
            },
        };
        let world = World { network, dir: RunDir::new() };
        let backends =
            world.network.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |n| n.backend().ip());
        let doors: Vec<_> = (0..LANES)
            .map(|_| {
                [(); 2].map(|()| {
                    let host = world.host(Peer::Server);
                    let mut door = on(host, || Door::at(backends));
                    door.open(None, host);
                    door
                })
            })
            .collect();
        let (balance, _port) = world.start(self.setting, &doors);
        self.within(&world, balance, doors, progress)
    }

    fn within(
        &self,
        world: &World,
        mut balance: Balance,
        doors: Vec<[Door; 2]>,
        progress: &(dyn Fn(&Figures) + Sync),
    ) -> Result<Option<Figures>, Vec<Failure>> {
        let (dir, entrance) = (&world.dir, balance.address());
        let process = balance.process();
        let is_over = |lane: &Lane, client: SocketAddr| {
            if process.is_connected_with(client) {
                return false;
            }
            let own = lane.doors.each_ref().map(Door::address);
            dir.show(entrance).iter().all(|row| row.current == 0 || !own.contains(&row.address))
        };
        let around = Around {
            entrance,
            clients: world.host(Peer::Client),
            backends: world.host(Peer::Server),
            is_over: &is_over,
        };
        let doors_of = |doors: &[Door; 2]| doors.each_ref().map(|door| door.address().port());
        let ports =
            Ports { entrance: entrance.port(), doors: doors.iter().flat_map(doors_of).collect() };
        let lanes = find_lanes(doors, world.clients(), &around, process);
        // What is made once and kept has been made by then, such as a program on an interface.
        let before = Before::settled(&balance, dir, &ports);
        let start = Instant::now();
        let story = Mutex::new(Story::default());
        let next = AtomicU64::new(0);
        // Memory of the program then.
        let halfway = OnceLock::new();
        thread::scope(|scope| {
            for mut lane in lanes {
                let (story, next, around, halfway) = (&story, &next, &around, &halfway);
                scope.spawn(move || {
                    loop {
                        let nth = next.fetch_add(1, Relaxed);
                        let Some(number) = self.number(nth, start) else { break };
                        if self.is_half_over(nth, start) {
                            halfway.get_or_init(|| process.resident());
                        }
                        let plan = Plan::new(self.seed, number);
                        let lived = lane.live(&plan, around);
                        let mut story = story.lock().unwrap_or_else(PoisonError::into_inner);
                        story.tell(self, plan, lived);
                        story.figures.time = start.elapsed();
                        progress(&story.figures);
                        if !story.failures.is_empty() {
                            break;
                        }
                    }
                });
            }
        });
        let mut story = story.into_inner().unwrap_or_else(PoisonError::into_inner);
        if story.failures.is_empty() {
            for (address, session) in leak_checks::left_over(&balance, dir) {
                let seen = format!("its session goes on: {session}");
                story.fail(self, address, &seen);
            }
        }
        if story.failures.is_empty() {
            before.settle(&balance, dir, self.setting.datapath, &ports);
            leak_checks::assert_no_growth(&balance, halfway.into_inner());
            self.close_books(&mut story, &mut balance, dir);
        }
        for failure in &mut story.failures {
            failure.add_log(&balance);
        }
        if story.failures.is_empty() { Ok(Some(story.figures)) } else { Err(story.failures) }
    }

    /// The number of the life that is the nth to begin, if it may.
    fn number(&self, nth: u64, start: Instant) -> Option<u64> {
        match self.limit {
            Limit::Time(time) => (start.elapsed() < time).then_some(nth),
            Limit::Lives(most) => (nth < most).then_some(nth),
            Limit::Only(number, times) => (nth < times).then_some(number),
        }
    }

    /// Whether the life that is the nth to begin is one of the second half.
    fn is_half_over(&self, nth: u64, start: Instant) -> bool {
        match self.limit {
            Limit::Time(time) => start.elapsed() >= time / 2,
            Limit::Lives(lives) | Limit::Only(_, lives) => nth >= lives / 2,
        }
    }

    /// Has the program end, and compares what it says with what its peers saw.
    fn close_books(&self, story: &mut Story, balance: &mut Balance, dir: &RunDir) {
        let rows = dir.show(balance.address());
        balance.signal(Signal::SIGTERM);
        let stopped = balance.farewell(PATIENCE);
        let sessions = leak_checks::sessions(balance);
        let sum = |of: fn(&Session) -> u64| sessions.iter().map(of).sum::<u64>();
        let (sent, rcvd) = (sum(|session| session.sent), sum(|session| session.rcvd));
        let shown = (rows.iter().map(|r| r.sent).sum(), rows.iter().map(|r| r.rcvd).sum());
        assert_eq!(shown, (sent, rcvd), "bytes of all channels and of all sessions");
        assert_eq!((stopped.sent, stopped.rcvd), (sent, rcvd), "bytes in all and of all sessions");
        assert_eq!(stopped.connections, sessions.len() as u64 + stopped.unserved, "connections");
        // Of those that had the same address, one after the other, the last, as in the story.
        let sessions: HashMap<_, _> = sessions.iter().map(|one| (one.client, one)).collect();
        let mut wrong = Vec::new();
        for (address, (_, lived)) in &story.lives {
            let session = sessions.get(address).copied();
            wrong.extend(leak_checks::disagreement(lived, session).map(|wrong| (*address, wrong)));
            if let Some(Session { datapath, .. }) = session {
                *story.figures.sessions.entry(datapath.clone()).or_default() += 1;
            }
        }
        for (address, wrong) in wrong {
            story.fail(self, address, &wrong);
        }
    }
}

impl Story {
    /// Takes in a life that is over.
    fn tell(&mut self, run: &Run, plan: Plan, lived: Lived) {
        self.figures.add(&plan, &lived);
        let Lived { client, backends, address, .. } = &lived;
        let faults = judge(&plan, client, backends);
        if faults.is_empty() {
            self.lives.insert(*address, (plan.number, lived));
        } else {
            let seen = format!("{faults:#?}\nclient: {client:#?}\nbackends: {backends:#?}");
            let (plan, client) = (Some(plan), Some(*address));
            self.failures.push(Failure { run: *run, plan, client, seen });
        }
    }

    /// Notes what turns out to be wrong with the life of that client after all.
    fn fail(&mut self, run: &Run, client: SocketAddr, wrong: &str) {
        let (number, lived) =
            self.lives.get(&client).unwrap_or_else(|| panic!("{client}: {wrong}"));
        let seen = format!("{wrong}\n{lived:#?}");
        let plan = Some(Plan::new(run.seed, *number));
        self.failures.push(Failure { run: *run, plan, client: Some(client), seen });
    }
}

/// Finds an address of clients for each pair of backends.
fn find_lanes(
    doors: Vec<[Door; 2]>,
    clients: Vec<IpAddr>,
    around: &Around,
    process: Process,
) -> Vec<Lane> {
    let mut found: Vec<Option<Client>> = doors.iter().map(|_| None).collect();
    for ip in clients {
        let mut client = Client::new(ip);
        let mut stream = client.connect(around, None);
        let address = stream.local_addr().expect("getsockname");
        assert!(
            process.is_connected_with(address),
            "{address} is not found in the kernel's tables"
        );
        let (lane, mut server) = eventually(PATIENCE, "the client comes to a backend", || {
            let mut doors = doors.iter().enumerate();
            let called = doors.find_map(|(i, [door, _])| Some((i, door.accept(Duration::ZERO)?)));
            called.ok_or_else(|| "it has not".to_owned())
        });
        // What a datapath needs on each interface is made by that.
        (0..5).for_each(|_| exchange(&mut stream, &mut server));
        found[lane].get_or_insert(client);
    }
    let lanes = doors
        .into_iter()
        .zip(found)
        .filter_map(|(doors, client)| Some(Lane { doors, client: client? }));
    let lanes: Vec<_> = lanes.collect();
    assert!(
        lanes.len() > LANES / 2,
        "{} addresses of clients lead to backends of their own",
        lanes.len()
    );
    lanes
}
