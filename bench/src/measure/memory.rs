//! Measures memory while connections are held.
//!
//! The kernel's share is that of the whole system and includes the sockets of the client and of the
//! server. The figure "beyond direct" is what a proxy costs in addition.
//!
//! Invariant: both readings are taken when no data moves, and few sockets are in TIME_WAIT, whose
//! end between the readings would free memory.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Better, Measurement, RunContext, pause};
use crate::{
    endpoint::Server,
    messages::{ClientReport, ServerConfig},
    network::Network,
    probe::{cpu, memory::Memory, sockets},
    proxy::Proxy,
    scenario::Case,
};

/// The figure that is also reported beyond direct.
pub(crate) const PROXY_AND_KERNEL: &str = "proxy + kernel";

/// The number of sockets in TIME_WAIT that a measurement tolerates, and the time limit for the
/// number to fall to that: TIME_WAIT lasts a minute.
const MAX_TIME_WAIT: u64 = 500;
const TIME_WAIT_TIMEOUT: Duration = Duration::from_secs(70);
/// Time for frees that the kernel defers.
const SETTLE: Duration = Duration::from_millis(500);
/// Time limit for all connections to be up.
const HOLDING_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until few sockets of earlier work are in TIME_WAIT. One wait per run is enough, because
/// memory measurements leave no such sockets.
pub(crate) fn wait_for_time_wait() -> Result<()> {
    let deadline = Instant::now() + TIME_WAIT_TIMEOUT;
    while sockets::time_wait()? > MAX_TIME_WAIT && Instant::now() < deadline {
        pause(SETTLE)?;
    }
    Ok(())
}

/// Measures in a unit of this many bytes.
pub(super) fn measure(
    context: &RunContext<'_>,
    case: &Case,
    proxy: &Proxy,
    network: &Network,
    (unit, bytes): (&str, f64),
) -> Result<Measurement> {
    let config = ServerConfig::new(case.service, network.server.address()?, context.directory);
    let config = ServerConfig { resets: true, ..config };
    let server = Server::with(config, &network.server, context.directory)?;
    let mut running = context.start_proxy(case, proxy, network, &[&server])?;
    pause(SETTLE)?;
    let before = Memory::read(&running.processes())?;
    let mut client = context.client(case, network, &running, &server)?;
    let report = client.receive(HOLDING_TIMEOUT);
    running.check_running()?;
    let setup = match report? {
        ClientReport::Holding { cpu } => cpu,
        other => bail!("unexpected report of the client: {}", other.name()),
    };
    pause(SETTLE)?;
    let used = Memory::read(&running.processes())?.since(before);
    let (start, worked) = (Instant::now(), cpu::seconds()?);
    pause(context.window)?;
    let worked = (cpu::seconds()? - worked) / start.elapsed().as_secs_f64();
    client.check_running()?;
    running.check_running()?;
    // Both sides of the proxy end with resets, so no socket is in TIME_WAIT for the next
    // measurement.
    server.kill();
    client.kill();

    let count = case.connections() as f64;
    let mut measurement = Measurement::default();
    let mut add = |name: &str, value: i64| {
        measurement.add(format!("{name} {unit}"), Better::Lower, value as f64 / bytes / count);
    };
    add(PROXY_AND_KERNEL, used.pss + used.slab + used.queues);
    add("proxy PSS", used.pss);
    add("proxy RSS", used.rss);
    add("slab", used.slab);
    add("queues", used.queues);
    add("all kernel pages", used.kernel);
    measurement.add("CPU ms/connection to set up", Better::Lower, setup * 1e3 / count);
    measurement.add("CPU % while held", Better::Lower, worked * 100.0);
    Ok(measurement)
}
