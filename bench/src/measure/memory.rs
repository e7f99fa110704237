//! Measuring memory while connections are held.
//!
//! The kernel's share is that of the whole system, so it includes both ends, the client's and
//! the server's; what a peer costs beyond them is told by the figure beyond direct.
//!
//! Invariant: both readings are made when nothing moves, and few sockets linger that could
//! free memory between them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Bench, Better, Measured, pause};
use crate::{
    helper::Server,
    job::{Report, ServerJob},
    network::Network,
    peer::Peer,
    probe::{cpu, memory::Memory, sockets},
    scenario::Case,
};

/// The figure that is told beyond direct as well.
pub(crate) const TOGETHER: &str = "proxy + kernel";

/// How many sockets may linger, and how long we wait for that: they do for a minute.
const LINGERING: u64 = 500;
const LINGERING_PATIENCE: Duration = Duration::from_secs(70);
/// For frees that the kernel puts off.
const SETTLE: Duration = Duration::from_millis(500);
/// Until all connections are there.
const HOLDING_PATIENCE: Duration = Duration::from_secs(60);

/// Waits until few sockets linger from what was before. Once is enough: what is measured here
/// leaves none behind.
pub(crate) fn wait_for_lingering() -> Result<()> {
    let deadline = Instant::now() + LINGERING_PATIENCE;
    while sockets::lingering()? > LINGERING && Instant::now() < deadline {
        pause(SETTLE)?;
    }
    Ok(())
}

/// Measures, in units of so many bytes.
pub(super) fn measure(
    bench: &Bench<'_>,
    case: &Case,
    peer: &Peer,
    network: &Network,
    (unit, bytes): (&str, f64),
) -> Result<Measured> {
    let job = ServerJob::new(case.service, network.server.address()?, bench.directory);
    let job = ServerJob { resets: true, ..job };
    let server = Server::with(job, &network.server, bench.directory)?;
    let mut proxy = bench.proxy(case, peer, network, &[&server])?;
    pause(SETTLE)?;
    let before = Memory::read(&proxy.processes())?;
    let mut client = bench.client(case, network, &proxy, &server)?;
    let report = client.answer(HOLDING_PATIENCE);
    proxy.check()?;
    let setup = match report? {
        Report::Holding { cpu } => cpu,
        other => bail!("the client reports {other:?}"),
    };
    pause(SETTLE)?;
    let used = Memory::read(&proxy.processes())?.since(before);
    let (start, worked) = (Instant::now(), cpu::seconds()?);
    pause(bench.window)?;
    let worked = (cpu::seconds()? - worked) / start.elapsed().as_secs_f64();
    client.check()?;
    proxy.check()?;
    // With resets on both sides of the peer nothing lingers until its next measurement.
    server.kill();
    client.kill();

    let count = case.connections() as f64;
    let mut measured = Measured::default();
    let mut add = |name: &str, value: i64| {
        measured.add(format!("{name} {unit}"), Better::Lower, value as f64 / bytes / count);
    };
    add(TOGETHER, used.pss + used.slab + used.queues);
    add("proxy PSS", used.pss);
    add("proxy RSS", used.rss);
    add("slab", used.slab);
    add("queues", used.queues);
    add("all kernel pages", used.kernel);
    measured.add("CPU ms/connection to set up", Better::Lower, setup * 1e3 / count);
    measured.add("CPU % while held", Better::Lower, worked * 100.0);
    Ok(measured)
}
