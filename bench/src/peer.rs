//! The peers: what stands between client and server, and how it is started for a job.
//!
//! All are told to listen on one port, to use as many workers as balance, to take
//! turns among their backends and to keep no access log; else they have their defaults.
//!
//! Invariant: a peer that does not do the job it was started for (another datapath, no port)
//! is an error, never a figure.

mod config;
mod program;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::program::Program;
use crate::{
    network::Place,
    process::{LOOK, Process},
};

/// The name of no peer at all.
pub(crate) const DIRECT: &str = "direct";
/// Every peer named so is balance on the datapath of that name.
const BALANCE: &str = "balance-";
/// The datapaths of balance that are measured.
const DATAPATHS: [&str; 3] = ["relay", "sockmap", "splice"];

/// How long a peer may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to measure.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// How it is called, here and in results.
    pub(crate) name: String,
    /// None for [`DIRECT`].
    program: Option<Program>,
}

/// A peer at work.
pub(crate) struct Proxy {
    process: Option<Process>,
    /// Where clients connect, in turn.
    pub(crate) targets: Vec<SocketAddr>,
}

/// All that a peer is told for a job.
pub(crate) struct Setting<'a> {
    /// Where it listens.
    pub(crate) place: &'a Place,
    /// The servers.
    pub(crate) backends: &'a [SocketAddr],
    /// For its configuration and log.
    pub(crate) directory: &'a Path,
    /// How many threads or processes it gets.
    pub(crate) workers: usize,
    /// Connections that it must bear at a time.
    pub(crate) connections: usize,
}

impl Peer {
    /// The peers that were asked for, `direct` first, then balance.
    pub(crate) fn all(names: &[String], commands: &[String], balance: &Path) -> Result<Vec<Self>> {
        let mut peers = vec![Self { name: DIRECT.into(), program: None }];
        let own = names.iter().any(|name| name.starts_with(BALANCE));
        let ours = DATAPATHS.map(|datapath| format!("{BALANCE}{datapath}"));
        let names = ours.iter().filter(|_| !own).chain(names).filter(|name| *name != DIRECT);
        for name in names {
            let program = match name.as_str() {
                "haproxy" => Program::Haproxy { splice: false },
                "haproxy-splice" => Program::Haproxy { splice: true },
                "nginx" => Program::Nginx,
                "pen" => Program::Pen,
                _ => match DATAPATHS.iter().find(|d| name.strip_prefix(BALANCE) == Some(d)) {
                    Some(datapath) => Program::Balance { path: PathBuf::from(balance), datapath },
                    None => bail!("there is no peer {name}; --peer-cmd makes new ones"),
                },
            };
            peers.push(Self { name: name.clone(), program: Some(program) });
        }
        for command in commands {
            let (name, words) = command
                .split_once('=')
                .with_context(|| format!("--peer-cmd {command} is not NAME=COMMAND"))?;
            let program = Some(Program::custom(words)?);
            peers.push(Self { name: name.into(), program });
        }
        for (nth, peer) in peers.iter().enumerate() {
            let twice = peers[..nth].iter().any(|other| other.name == peer.name);
            ensure!(!twice, "the peer {} is named twice", peer.name);
        }
        Ok(peers)
    }

    /// True if it is no peer at all.
    pub(crate) fn is_direct(&self) -> bool {
        self.program.is_none()
    }

    /// The Debian package it lacks.
    pub(crate) fn missing_package(&self) -> Option<&'static str> {
        self.program.as_ref().and_then(Program::missing_package)
    }

    /// What it is exactly, or why it is not there.
    pub(crate) fn version(&self) -> Result<String> {
        self.program.as_ref().map_or(Ok("client to server".into()), Program::version)
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(&self, setting: &Setting<'_>) -> Result<Proxy> {
        let Some(program) = &self.program else {
            return Ok(Proxy { process: None, targets: setting.backends.to_vec() });
        };
        let listen = setting.place.address()?;
        let mut command = program.command(listen, setting)?;
        setting.place.enter(&mut command);
        let log = setting.directory.join(format!("{}.log", self.name));
        let mut process = Process::start(&self.name, &mut command, &log)?;
        let deadline = Instant::now() + PATIENCE;
        while !process.listens(listen.port())? || !program.is_ready(&process)? {
            ensure!(
                Instant::now() < deadline,
                "{} does not listen on {listen} within {PATIENCE:?}",
                self.name
            );
            std::thread::sleep(LOOK);
        }
        Ok(Proxy { process: Some(process), targets: vec![listen] })
    }
}

impl Proxy {
    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    /// Its processes, none for `direct`.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.process.as_ref().map_or_else(Vec::new, Process::ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let peers =
            Peer::all(&names, &["x=/bin/x {listen} {backend}".into()], Path::new("balance"))?;
        Ok(peers.into_iter().map(|peer| peer.name).collect())
    }

    #[test]
    fn direct_and_balance_are_always_there() {
        let all = names(&["nginx"]).unwrap();
        let ours = ["balance-relay", "balance-sockmap", "balance-splice"];
        assert_eq!(all, [&["direct"], &ours[..], &["nginx", "x"]].concat());
    }

    #[test]
    fn a_datapath_that_is_named_is_the_only_one() {
        assert_eq!(names(&["direct", "balance-relay"]).unwrap(), ["direct", "balance-relay", "x"]);
    }

    #[test]
    fn unknown_and_doubled_peers_are_refused() {
        assert!(names(&["apache"]).unwrap_err().to_string().contains("apache"));
        assert!(names(&["balance-magic"]).is_err());
        assert!(names(&["pen", "pen"]).is_err());
    }
}
