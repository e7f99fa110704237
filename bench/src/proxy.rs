//! The proxies: what stands between client and server, and how it is started for a job.
//!
//! All are told to listen on one port, to use as many workers as balance, to take
//! turns among their backends and to keep no access log; else they have their defaults.
//!
//! Invariant: a proxy that does not do the job it was started for (another datapath, no port)
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
    network::Host,
    process::{POLL_INTERVAL, Process},
};

/// The name of no peer at all.
pub(crate) const DIRECT: &str = "direct";
/// Every proxy named so is balance on the datapath of that name.
const BALANCE_PREFIX: &str = "balance-";
/// The datapaths of balance that are measured.
const DATAPATHS: [&str; 3] = ["relay", "sockmap", "splice"];

/// How long a proxy may take until it listens.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Something to measure.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// How it is called, here and in results.
    pub(crate) name: String,
    /// None for [`DIRECT`].
    program: Option<Program>,
}

/// A peer at work.
pub(crate) struct RunningProxy {
    process: Option<Process>,
    /// Where clients connect, in turn.
    pub(crate) targets: Vec<SocketAddr>,
}

/// All that a proxy is told for a job.
pub(crate) struct StartConfig<'a> {
    /// Where it listens.
    pub(crate) host: &'a Host,
    /// The servers.
    pub(crate) backends: &'a [SocketAddr],
    /// For its configuration and log.
    pub(crate) directory: &'a Path,
    /// How many threads or processes it gets.
    pub(crate) workers: usize,
    /// Connections that it must bear at a time.
    pub(crate) connections: usize,
}

impl Proxy {
    /// The proxies that were asked for, `direct` first, then balance.
    pub(crate) fn all(names: &[String], commands: &[String], balance: &Path) -> Result<Vec<Self>> {
        let mut proxies = vec![Self { name: DIRECT.into(), program: None }];
        let own = names.iter().any(|name| name.starts_with(BALANCE_PREFIX));
        let ours = DATAPATHS.map(|datapath| format!("{BALANCE_PREFIX}{datapath}"));
        let names = ours.iter().filter(|_| !own).chain(names).filter(|name| *name != DIRECT);
        for name in names {
            let program = match name.as_str() {
                "haproxy" => Program::Haproxy { splice: false },
                "haproxy-splice" => Program::Haproxy { splice: true },
                "nginx" => Program::Nginx,
                "pen" => Program::Pen,
                _ => {
                    match DATAPATHS.iter().find(|d| name.strip_prefix(BALANCE_PREFIX) == Some(d)) {
                        Some(datapath) => {
                            Program::Balance { path: PathBuf::from(balance), datapath }
                        }
                        None => bail!("there is no proxy {name}; --proxy-cmd makes new ones"),
                    }
                }
            };
            proxies.push(Self { name: name.clone(), program: Some(program) });
        }
        for command in commands {
            let (name, words) = command
                .split_once('=')
                .with_context(|| format!("--proxy-cmd {command} is not NAME=COMMAND"))?;
            let program = Some(Program::custom(words)?);
            proxies.push(Self { name: name.into(), program });
        }
        for (nth, proxy) in proxies.iter().enumerate() {
            let twice = proxies[..nth].iter().any(|other| other.name == proxy.name);
            ensure!(!twice, "the proxy {} is named twice", proxy.name);
        }
        Ok(proxies)
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
    pub(crate) fn start(&self, config: &StartConfig<'_>) -> Result<RunningProxy> {
        let Some(program) = &self.program else {
            return Ok(RunningProxy { process: None, targets: config.backends.to_vec() });
        };
        let listen = config.host.address()?;
        let mut command = program.command(listen, config)?;
        config.host.enter(&mut command);
        let log = config.directory.join(format!("{}.log", self.name));
        let mut process = Process::start(&self.name, &mut command, &log)?;
        let deadline = Instant::now() + TIMEOUT;
        while !process.listens(listen.port())? || !program.is_ready(&process)? {
            ensure!(
                Instant::now() < deadline,
                "{} does not listen on {listen} within {TIMEOUT:?}",
                self.name
            );
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(RunningProxy { process: Some(process), targets: vec![listen] })
    }
}

impl RunningProxy {
    /// An error if it has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
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
        let proxies =
            Proxy::all(&names, &["x=/bin/x {listen} {backend}".into()], Path::new("balance"))?;
        Ok(proxies.into_iter().map(|proxy| proxy.name).collect())
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
