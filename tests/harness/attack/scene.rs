//! Where an attack happens: the hosts, the program on one of them, and what it says of its
//! connections.
//!
//! Invariant: whatever the program says is compared with what the peers have really sent.

use std::{
    fmt,
    net::SocketAddr,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use super::victim::Victim;
use crate::{
    Builder, Datapath, Family, Link, Network, Peer, RunDir, Session, Topology, eventually,
};

/// How the hosts are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One host, and its loopback.
    Loopback,
    /// Client, server and attacker behind the one interface of the program's host.
    Switch,
    /// Each behind an interface of its own.
    Apart,
}

impl Placement {
    /// All that there are, with the names by which they are asked for.
    pub const ALL: [(&'static str, Self); 3] =
        [("loopback", Self::Loopback), ("switch", Self::Switch), ("apart", Self::Apart)];

    fn topology(self) -> Topology {
        match self {
            Self::Loopback => Topology::SingleHost,
            Self::Switch => Topology::OneInterface,
            Self::Apart => Topology::Apart,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, place)| place == self);
        f.pad(known.map_or("unnamed", |(name, _)| name))
    }
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, place)| *place).ok_or_else(|| "loopback, switch or apart".to_owned())
    }
}

/// What an attack's place is made of.
#[derive(Clone, Copy, Debug)]
pub struct SceneConfig {
    /// How the hosts are joined.
    pub place: Placement,
    /// Version of IP.
    pub family: Family,
    /// What carries the connection.
    pub datapath: Datapath,
    /// The peers use timestamps.
    pub stamps: bool,
    /// Turns of user space before the connection is handed over; `None` for those of the tests.
    pub offload_after: Option<u32>,
    /// The idle timeout of the program, in seconds.
    pub idle: Option<u32>,
    /// The peers' windows may become large. A blind attacker then has a chance against the peers
    /// themselves that can be met in a few million packets, whatever is between them.
    pub is_wide: bool,
}

impl SceneConfig {
    /// One with all defaults.
    pub const fn new(place: Placement, family: Family, datapath: Datapath) -> Self {
        Self {
            place,
            family,
            datapath,
            stamps: true,
            offload_after: None,
            idle: None,
            is_wide: false,
        }
    }
}

impl fmt::Display for SceneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        let stamps = if self.stamps { "" } else { " without timestamps" };
        write!(f, "{} {} {family}{stamps}", self.datapath.name(), self.place)
    }
}

/// The program, between its peers and within reach of an attacker.
#[derive(Debug)]
pub struct Scene {
    /// The program and its server.
    pub link: Link,
    setting: SceneConfig,
    dir: RunDir,
}

/// How long the program may take to say what is true.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Scene {
    /// Builds the hosts and starts the program; `None` where that cannot be had, and the reason has been
    /// printed.
    pub fn new(setting: SceneConfig) -> Option<Self> {
        Self::prepared(setting, |_| {})
    }

    /// The same, after something else was done to the hosts.
    pub fn prepared(setting: SceneConfig, prepare: impl FnOnce(&Network)) -> Option<Self> {
        let mut network = Network::new(setting.place.topology(), setting.family)?;
        network.add_off_path_host().expect("the attacker's host");
        if !setting.stamps {
            network.hosts().for_each(|host| host.set("ipv4/tcp_timestamps", "0"));
        }
        prepare(&network);
        let dir = RunDir::new();
        let mut builder = dir.use_in(Builder::new(setting.datapath));
        if let Some(turns) = setting.offload_after {
            builder = builder.offload_after(turns);
        }
        if let Some(seconds) = setting.idle {
            builder = builder.option(&["-T", &seconds.to_string()]);
        }
        let link = match setting.is_wide {
            true => Link::across(network, builder),
            false => Link::small_across(network, builder),
        };
        Some(Self { link, setting, dir })
    }

    /// Where the program listens.
    pub fn address(&self) -> SocketAddr {
        self.link.balance.address()
    }

    /// A connection that is on its datapath by now.
    pub fn victim(&self) -> Victim {
        let (client, server) = match self.setting.is_wide {
            true => self.link.pair(),
            false => self.link.small_pair(),
        };
        // What the link has sent is not what is attacked with, but that has arrived.
        let mut victim = Victim::new(client, server, 1);
        for _ in 0..20 {
            victim.exchange(0, 100).expect("before the attack");
        }
        eventually(SETTLE_TIMEOUT, "the connection is on its datapath", || {
            victim.exchange(0, 100)?;
            self.is_carried(&victim)
        });
        victim
    }

    fn is_carried(&self, victim: &Victim) -> Result<(), String> {
        let carrier = self.carrier(victim);
        match carrier.as_deref() == Some(self.setting.datapath.name()) {
            true => Ok(()),
            false => Err(format!("on {carrier:?}")),
        }
    }

    /// Whether a connection gets on its datapath within that time.
    pub fn is_carried_within(&self, victim: &Victim, time: Duration) -> bool {
        within(time, || self.is_carried(victim)).is_ok()
    }

    /// What carries a connection now.
    pub fn carrier(&self, victim: &Victim) -> Option<String> {
        self.row(victim).and_then(|row| row.last().cloned())
    }

    fn row(&self, victim: &Victim) -> Option<Vec<String>> {
        let client = victim.client().to_string();
        let text = self.dir.run_ok(self.address(), "sessions");
        let rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect());
        rows.into_iter().find(|row: &Vec<String>| row.first() == Some(&client))
    }

    /// Compares what the program says of a connection that stands with what was carried.
    ///
    /// # Errors
    /// What is not right, and stays so.
    pub fn counts(&self, victim: &Victim) -> Result<(), String> {
        let carried = victim.carried.map(|bytes| bytes.to_string());
        soon(|| {
            let row = self.row(victim).ok_or("no session")?;
            if row[4..6] == carried { Ok(()) } else { Err(format!("{carried:?} passed: {row:?}")) }
        })
    }

    /// Compares what the program says of its only channel, and of all connections, with what was carried.
    ///
    /// # Errors
    /// What is not right, and stays so.
    pub fn totals(&self, carried: [u64; 2]) -> Result<(), String> {
        soon(|| {
            let shown = self.dir.show(self.address());
            let is_right = shown.iter().map(|row| [row.sent, row.rcvd]).eq([carried]);
            if is_right { Ok(()) } else { Err(format!("{carried:?} passed: {shown:?}")) }
        })?;
        let stats = self.dir.run_ok(self.address(), "stats");
        let broken = stats.lines().find(|line| line.starts_with("broken"));
        match broken.is_some_and(|line| line.ends_with(" 0")) {
            true => Ok(()),
            false => Err(stats),
        }
    }

    /// The session of a connection that has ended.
    ///
    /// # Errors
    /// When it has not.
    pub fn session(&self, client: SocketAddr) -> Result<Session, String> {
        soon(|| {
            let ended = self.link.balance.sessions(0);
            ended.into_iter().find(|session| session.client == client).ok_or_else(|| {
                let client = client.ip();
                format!("no session of {client} has ended")
            })
        })
    }

    /// Ends a connection, and compares what is said of it then.
    ///
    /// # Errors
    /// What is not right.
    pub fn end(&self, victim: Victim) -> Result<(), String> {
        let (client, carried) = (victim.client(), victim.carried);
        victim.end()?;
        let session = self.session(client)?;
        let is_right = session.end == "clean" && [session.sent, session.rcvd] == carried;
        if is_right { Ok(()) } else { Err(format!("{carried:?} passed: {session:?}")) }
    }

    /// The network of the place.
    pub fn network(&self) -> &Network {
        self.link.network()
    }

    /// Takes a peer off the network.
    pub fn vanish(&self, peer: Peer) {
        self.network().peer(peer).ip("link set eth0 down");
    }
}

/// Looks again until it is right, for a while.
fn soon<T>(look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    within(SETTLE_TIMEOUT, look)
}

fn within<T>(time: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        match look() {
            Err(_) if begun.elapsed() < time => thread::sleep(Duration::from_millis(5)),
            outcome => return outcome,
        }
    }
}
