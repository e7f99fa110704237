//! The proxies and how the benchmark starts them.
//!
//! Every proxy listens on one port, has as many workers as balance, distributes connections round
//! robin and writes no access log. All other settings are the defaults of the proxy.
//!
//! Invariant: a proxy that does not run as configured (another datapath, no listening port) causes
//! an error and no figure.

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

/// The name of the measurement without a proxy.
pub(crate) const DIRECT: &str = "direct";
/// The prefix of the names of balance; the rest is the datapath.
const BALANCE_PREFIX: &str = "balance-";
/// The name of haproxy with splice(2).
const HAPROXY_SPLICE: &str = "haproxy-splice";
/// The datapaths of balance that are measured.
const DATAPATHS: [&str; 3] = ["relay", "sockmap", "splice"];

/// Time limit for a proxy to listen.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the name for tables and charts. The two techniques called "splice" have distinct labels:
/// balance splices TCP connections in the kernel, haproxy calls splice(2).
pub(crate) fn label(name: &str) -> String {
    match name.strip_prefix(BALANCE_PREFIX) {
        Some(datapath) => format!("balance ({datapath})"),
        None if name == HAPROXY_SPLICE => "haproxy (splice(2))".to_owned(),
        None => name.to_owned(),
    }
}

/// A proxy, or `direct`.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// The name on the command line and in the results.
    pub(crate) name: String,
    /// `None` for [`DIRECT`].
    program: Option<Program>,
}

/// A running proxy.
pub(crate) struct RunningProxy {
    process: Option<Process>,
    /// The addresses that clients connect to, round robin.
    pub(crate) targets: Vec<SocketAddr>,
}

/// How a proxy is started for a measurement.
pub(crate) struct StartConfig<'a> {
    /// The host of the proxy.
    pub(crate) host: &'a Host,
    /// The addresses of the servers.
    pub(crate) backends: &'a [SocketAddr],
    /// The directory of configuration file and log.
    pub(crate) directory: &'a Path,
    /// Number of threads or processes.
    pub(crate) workers: usize,
    /// Number of concurrent connections that the proxy has to handle.
    pub(crate) connections: usize,
}

impl Proxy {
    /// Returns the proxies of the command line: `direct` first, then balance, then the others.
    pub(crate) fn all(names: &[String], commands: &[String], balance: &Path) -> Result<Vec<Self>> {
        let mut proxies = vec![Self { name: DIRECT.into(), program: None }];
        let own = names.iter().any(|name| name.starts_with(BALANCE_PREFIX));
        let ours = DATAPATHS.map(|datapath| format!("{BALANCE_PREFIX}{datapath}"));
        let names = ours.iter().filter(|_| !own).chain(names).filter(|name| *name != DIRECT);
        for name in names {
            let program = match name.as_str() {
                "haproxy" => Program::Haproxy { splice: false },
                HAPROXY_SPLICE => Program::Haproxy { splice: true },
                "nginx" => Program::Nginx,
                "pen" => Program::Pen,
                _ => {
                    match DATAPATHS.iter().find(|d| name.strip_prefix(BALANCE_PREFIX) == Some(d)) {
                        Some(datapath) => {
                            Program::Balance { path: PathBuf::from(balance), datapath }
                        }
                        None => bail!("unknown proxy {name}; --proxy-cmd defines others"),
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
            ensure!(!twice, "the proxy {} is given twice", proxy.name);
        }
        Ok(proxies)
    }

    /// Returns true for `direct`.
    pub(crate) fn is_direct(&self) -> bool {
        self.program.is_none()
    }

    /// Returns the Debian package that is missing, if any.
    pub(crate) fn missing_package(&self) -> Option<&'static str> {
        self.program.as_ref().and_then(Program::missing_package)
    }

    /// Returns the version, or an error if the proxy is not installed.
    pub(crate) fn version(&self) -> Result<String> {
        self.program.as_ref().map_or(Ok("client to server".into()), Program::version)
    }

    /// Starts the proxy and waits until it listens.
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
                "{} does not listen on {listen} within {} s",
                self.name,
                TIMEOUT.as_secs()
            );
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(RunningProxy { process: Some(process), targets: vec![listen] })
    }
}

impl RunningProxy {
    /// Returns an error if the proxy has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Returns the process ids; none for `direct`.
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
    fn the_two_techniques_called_splice_have_distinct_labels() {
        let labels = ["direct", "balance-splice", "haproxy", "haproxy-splice"].map(label);
        assert_eq!(labels, ["direct", "balance (splice)", "haproxy", "haproxy (splice(2))"]);
    }

    #[test]
    fn direct_and_balance_are_always_measured() {
        let all = names(&["nginx"]).unwrap();
        let ours = ["balance-relay", "balance-sockmap", "balance-splice"];
        assert_eq!(all, [&["direct"], &ours[..], &["nginx", "x"]].concat());
    }

    #[test]
    fn a_named_datapath_excludes_the_other_datapaths() {
        assert_eq!(names(&["direct", "balance-relay"]).unwrap(), ["direct", "balance-relay", "x"]);
    }

    #[test]
    fn unknown_and_duplicate_proxies_are_rejected() {
        assert!(names(&["apache"]).unwrap_err().to_string().contains("apache"));
        assert!(names(&["balance-magic"]).is_err());
        assert!(names(&["pen", "pen"]).is_err());
    }
}
