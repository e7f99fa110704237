//! Measuring what clients suffer while one of two backends is away.
//!
//! Invariant: a server that returned is told from the one that died by its id, so that only
//! answers of the new one count as recovery.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Bench, Better, Measured};
use crate::{
    helper::Server,
    job::{Load, Moment, Report, ServerJob, Service, Tick},
    network::Network,
    peer::{Peer, Proxy},
    probe::cpu,
    process::Process,
    scenario::Case,
};

/// The ids of the server that dies, of the one that stays, of the one that returns.
const DIES: u8 = 1;
const STAYS: u8 = 2;
const RETURNS: u8 = 3;

/// How long a peer may leave the returned server unused.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(15);
const TICK_PATIENCE: Duration = Duration::from_secs(5);

/// The client and what it told last.
struct Watch {
    client: Process,
    proxy: Proxy,
    last: Tick,
}

/// Measures: a window with both, one with the second alone, and until the first is back.
pub(super) fn measure(
    bench: &Bench<'_>,
    case: &Case,
    peer: &Peer,
    network: &Network,
) -> Result<Measured> {
    let Load::Churn { size, .. } = case.load else { bail!("{} is no churn", case.id) };
    let service = |id| Service::Answer { size, id };
    let dies = Server::start(service(DIES), &network.server, bench.directory)?;
    let stays = Server::start(service(STAYS), &network.server, bench.directory)?;
    let proxy = bench.proxy(case, peer, network, &[&dies, &stays])?;
    // Far longer than it takes: it is stopped.
    let long = Bench { window: Duration::from_secs(3600), ..*bench };
    let client = long.client(case, network, &proxy, &stays)?;
    let mut watch = Watch { client, proxy, last: Tick::default() };

    let (begun, worked) = (Instant::now(), cpu::seconds()?);
    watch.during(bench.window, |_| false)?;
    for id in [DIES, STAYS] {
        let used = watch.last.first_answer.contains_key(&id);
        ensure!(used, "server {id} of 2 was not used within {:?}", bench.window);
    }
    let before = watch.last.errors;
    let address = dies.address;
    let death = Moment::now();
    dies.kill();
    watch.during(bench.window, |_| false)?;
    let job = ServerJob::new(service(RETURNS), address, bench.directory);
    let back = Server::with(job, &network.server, bench.directory)?;
    let birth = Moment::now();
    watch.during(RECOVERY_PATIENCE, |tick| tick.first_answer.contains_key(&RETURNS))?;
    let worked = cpu::seconds()? - worked;
    let seconds = begun.elapsed().as_secs_f64();
    drop(back);

    let Tick { done, errors, last_error, slowest, first_answer } = watch.last;
    let mut measured = Measured::default();
    match first_answer.get(&RETURNS) {
        Some(answer) => {
            measured.add("recovery ms", Better::Lower, answer.millis_since(birth));
        }
        None => {
            let why = format!("the returned server was not used within {RECOVERY_PATIENCE:?}");
            measured.remarks.push(why);
        }
    }
    let outage = last_error.map_or(0.0, |last| last.millis_since(death));
    measured.add("errors", Better::Lower, (errors - before) as f64);
    measured.add("errors until ms", Better::Lower, outage);
    measured.add("slowest request ms", Better::Lower, slowest.as_secs_f64() * 1e3);
    measured.add("requests/s", Better::Higher, done as f64 / seconds);
    measured.add("CPU µs/request", Better::Lower, worked * 1e6 / done as f64);
    if before > 0 {
        measured.remarks.push(format!("{before} connections failed while both servers were up"));
    }
    Ok(measured)
}

impl Watch {
    /// Listens for that long, or until `enough`.
    fn during(&mut self, time: Duration, enough: impl Fn(&Tick) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !enough(&self.last) {
            let report = self.client.answer(TICK_PATIENCE);
            self.proxy.check()?;
            match report? {
                Report::Tick(tick) => self.last = tick,
                other => bail!("the client reports {other:?}"),
            }
        }
        Ok(())
    }
}
