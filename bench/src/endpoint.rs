//! Our own server and client as processes.
//!
//! Invariant: they are this very program, so that both ends of a job are of one version.

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

/// The words that make this program its own server or client.
pub(crate) const SERVER: &str = "server";
/// See [`SERVER`].
pub(crate) const CLIENT: &str = "client";

/// How long our server may take to listen.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A server that listens.
pub(crate) struct Server {
    process: Process,
    /// Where it serves.
    pub(crate) address: SocketAddr,
    /// Where it tells its bytes.
    pub(crate) counters: PathBuf,
}

impl Server {
    /// Starts one on a free port.
    pub(crate) fn start(service: Service, host: &Host, directory: &Path) -> Result<Self> {
        Self::with(ServerConfig::new(service, host.address()?, directory), host, directory)
    }

    /// Starts one for a job.
    pub(crate) fn with(job: ServerConfig, host: &Host, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("server-{}.log", job.address.port()));
        let mut process = start(SERVER, &job, host, &log)?;
        let ServerReady = process.receive(TIMEOUT)?;
        Ok(Self { process, address: job.address, counters: job.counters })
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(self) {
        self.process.kill();
    }
}

/// Starts a client.
pub(crate) fn client(job: &ClientConfig, host: &Host, directory: &Path) -> Result<Process> {
    start(CLIENT, job, host, &directory.join("client.log"))
}

fn start<T: Serialize>(role: &str, job: &T, host: &Host, log: &Path) -> Result<Process> {
    let program = env::current_exe().context("cannot find this program")?;
    let job = serde_json::to_string(job).context("cannot encode a job")?;
    let mut command = Command::new(program);
    command.args([role, &job]);
    host.enter(&mut command);
    Process::start(&format!("the {role}"), &mut command, log)
}
