//! Measuring memory while connections are held.
//!
//! The kernel's share is that of the whole system, so it includes both ends, the client's and
//! the server's; what a proxy costs beyond them is told by the figure beyond direct.
//!
//! Invariant: both readings are made when nothing moves, and few sockets linger that could
//! free memory between them.

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

/// The figure that is told beyond direct as well.
pub(crate) const PROXY_AND_KERNEL: &str = "proxy + kernel";

/// How many sockets may linger, and how long we wait for that: they do for a minute.
const MAX_TIME_WAIT: u64 = 500;
const TIME_WAIT_TIMEOUT: Duration = Duration::from_secs(70);
/// For frees that the kernel puts off.
const SETTLE: Duration = Duration::from_millis(500);
/// Until all connections are there.
const HOLDING_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until few sockets linger from what was before. Once is enough: what is measurement here
/// leaves none behind.
pub(crate) fn wait_for_time_wait() -> Result<()> {
    let deadline = Instant::now() + TIME_WAIT_TIMEOUT;
    while sockets::time_wait()? > MAX_TIME_WAIT && Instant::now() < deadline {
        pause(SETTLE)?;
    }
    Ok(())
}

/// Measures, in units of so many bytes.
pub(super) fn measure(
    context: &RunContext<'_>,
    case: &Case,
    proxy: &Proxy,
    network: &Network,
    (unit, bytes): (&str, f64),
) -> Result<Measurement> {
    let job = ServerConfig::new(case.service, network.server.address()?, context.directory);
    let job = ServerConfig { resets: true, ..job };
    let server = Server::with(job, &network.server, context.directory)?;
    let mut running = context.start_proxy(case, proxy, network, &[&server])?;
    pause(SETTLE)?;
    let before = Memory::read(&running.processes())?;
    let mut client = context.client(case, network, &running, &server)?;
    let report = client.receive(HOLDING_TIMEOUT);
    running.check_running()?;
    let setup = match report? {
        ClientReport::Holding { cpu } => cpu,
        other => bail!("the client reports {other:?}"),
    };
    pause(SETTLE)?;
    let used = Memory::read(&running.processes())?.since(before);
    let (start, worked) = (Instant::now(), cpu::seconds()?);
    pause(context.window)?;
    let worked = (cpu::seconds()? - worked) / start.elapsed().as_secs_f64();
    client.check_running()?;
    running.check_running()?;
    // With resets on both sides of the proxy nothing lingers until its next measurement.
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
