//! The server and the client of the benchmark, as processes.
//!
//! Invariant: both are this executable, so both ends have the same version.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    messages::{ClientConfig, ServerConfig, ServerReady, Service},
    network::Host,
    process::Process,
};

/// The argument that makes this executable the server.
pub(crate) const SERVER: &str = "server";
/// The argument that makes this executable the client.
pub(crate) const CLIENT: &str = "client";

/// Time limit for the server to listen.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A server that listens.
pub(crate) struct Server {
    process: Process,
    /// The listening address.
    pub(crate) address: SocketAddr,
    /// The Unix socket of the byte counters.
    pub(crate) counters: PathBuf,
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) fn start(service: Service, host: &Host, directory: &Path) -> Result<Self> {
        Self::with(ServerConfig::new(service, host.address()?, directory), host, directory)
    }

    /// Starts a server with a configuration.
    pub(crate) fn with(config: ServerConfig, host: &Host, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("server-{}.log", config.address.port()));
        let mut process = start(SERVER, &config, host, &log)?;
        let ServerReady = process.receive(TIMEOUT)?;
        Ok(Self { process, address: config.address, counters: config.counters })
    }

    /// Kills the server, as in a crash.
    pub(crate) fn kill(self) {
        self.process.kill();
    }
}

/// Starts a client.
pub(crate) fn client(config: &ClientConfig, host: &Host, directory: &Path) -> Result<Process> {
    start(CLIENT, config, host, &directory.join("client.log"))
}

fn start<T: Serialize>(role: &str, config: &T, host: &Host, log: &Path) -> Result<Process> {
    let program = env::current_exe().context("cannot find this executable")?;
    let config = serde_json::to_string(config).context("cannot encode a configuration")?;
    let mut command = Command::new(program);
    command.args([role, &config]);
    host.enter(&mut command);
    Process::start(&format!("the {role}"), &mut command, log)
}
