//! The scene of an attack: hosts, the program, and its reports about connections.
//!
//! Invariant: every report of the program is compared with what the peers have sent.

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
    /// All on the loopback of one host.
    Loopback,
    /// Client, server and attacker behind one interface of the balancer's host.
    Switch,
    /// Each behind its own interface of the balancer's host.
    Apart,
}

impl Placement {
    /// All placements with their names.
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

/// How a scene is built.
#[derive(Clone, Copy, Debug)]
pub struct SceneConfig {
    /// How the hosts are joined.
    pub place: Placement,
    /// IP version.
    pub family: Family,
    /// Datapath of the connections.
    pub datapath: Datapath,
    /// Whether the peers use timestamps.
    pub stamps: bool,
    /// Buffers that user space moves before the hand-over; `None` for the datapath's own number.
    pub offload_after: Option<u32>,
    /// Idle timeout of the program in seconds.
    pub idle: Option<u32>,
    /// Whether the peers' windows may grow large. With a large window a few million blind packets
    /// can hit the peers themselves, with or without a balancer between them.
    pub is_wide: bool,
}

impl SceneConfig {
    /// A configuration with defaults.
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

/// The program, its peers and an attacker that can reach it.
#[derive(Debug)]
pub struct Scene {
    /// The program and its server.
    pub link: Link,
    config: SceneConfig,
    dir: RunDir,
}

/// How long the program may take until its reports are right.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Scene {
    /// Builds the hosts and starts the program. Prints the reason and returns `None` where that is
    /// impossible.
    pub fn new(config: SceneConfig) -> Option<Self> {
        Self::prepared(config, |_| {})
    }

    /// Like [`Scene::new`]; calls `prepare` with the hosts before the program starts.
    pub fn prepared(config: SceneConfig, prepare: impl FnOnce(&Network)) -> Option<Self> {
        let mut network = Network::new(config.place.topology(), config.family)?;
        network.add_off_path_host().expect("the attacker's host");
        if !config.stamps {
            network.hosts().for_each(|host| host.set("ipv4/tcp_timestamps", "0"));
        }
        prepare(&network);
        let dir = RunDir::new();
        let mut builder = dir.use_in(Builder::new(config.datapath));
        if let Some(buffers) = config.offload_after {
            builder = builder.offload_after(buffers);
        }
        if let Some(seconds) = config.idle {
            builder = builder.option(&["-T", &seconds.to_string()]);
        }
        let link = match config.is_wide {
            true => Link::across(network, builder),
            false => Link::small_across(network, builder),
        };
        Some(Self { link, config, dir })
    }

    /// The address that the program listens on.
    pub fn address(&self) -> SocketAddr {
        self.link.balance.address()
    }

    /// A connection that has reached its datapath.
    pub fn victim(&self) -> Victim {
        let (client, server) = match self.config.is_wide {
            true => self.link.pair(),
            false => self.link.small_pair(),
        };
        // The link itself has sent one byte each way.
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
        match carrier.as_deref() == Some(self.config.datapath.name()) {
            true => Ok(()),
            false => Err(format!("on {carrier:?}")),
        }
    }

    /// Whether a connection reaches its datapath within `time`.
    pub fn is_carried_within(&self, victim: &Victim, time: Duration) -> bool {
        within(time, || self.is_carried(victim)).is_ok()
    }

    /// The datapath of a connection, as `sessions` shows it.
    pub fn carrier(&self, victim: &Victim) -> Option<String> {
        self.row(victim).and_then(|row| row.last().cloned())
    }

    fn row(&self, victim: &Victim) -> Option<Vec<String>> {
        let client = victim.client().to_string();
        let text = self.dir.run_ok(self.address(), "sessions");
        let rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect());
        rows.into_iter().find(|row: &Vec<String>| row.first() == Some(&client))
    }

    /// Compares the byte counts of an open connection with what its peers sent.
    ///
    /// # Errors
    /// The difference, if it persists.
    pub fn counts(&self, victim: &Victim) -> Result<(), String> {
        let carried = victim.carried.map(|bytes| bytes.to_string());
        soon(|| {
            let row = self.row(victim).ok_or("no session")?;
            if row[5..7] == carried { Ok(()) } else { Err(format!("{carried:?} passed: {row:?}")) }
        })
    }

    /// Compares the byte counts of the only channel, and the number of broken connections, with
    /// what the peers sent and zero.
    ///
    /// # Errors
    /// The difference, if it persists.
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

    /// The log entry of a connection that has ended.
    ///
    /// # Errors
    /// When the connection has not ended.
    pub fn session(&self, client: SocketAddr) -> Result<Session, String> {
        soon(|| {
            let ended = self.link.balance.sessions(0);
            ended.into_iter().find(|session| session.client == client).ok_or_else(|| {
                let client = client.ip();
                format!("no session of {client} has ended")
            })
        })
    }

    /// Ends a connection and compares its log entry with what its peers sent.
    ///
    /// # Errors
    /// The difference.
    pub fn end(&self, victim: Victim) -> Result<(), String> {
        let (client, carried) = (victim.client(), victim.carried);
        victim.end()?;
        let session = self.session(client)?;
        let is_right = session.end == "clean" && [session.sent, session.rcvd] == carried;
        if is_right { Ok(()) } else { Err(format!("{carried:?} passed: {session:?}")) }
    }

    /// The network of the scene.
    pub fn network(&self) -> &Network {
        self.link.network()
    }

    /// Disconnects a peer's host from the network.
    pub fn vanish(&self, peer: Peer) {
        self.network().peer(peer).ip("link set eth0 down");
    }
}

/// Polls until `look` succeeds, for a while.
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
