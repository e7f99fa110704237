//! Measuring what clients suffer while one of two backends is away.
//!
//! Invariant: a server that returned is told from the one that died by its id, so that only
//! answers of the new one count as recovery.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Better, Measurement, RunContext};
use crate::{
    endpoint::Server,
    messages::{ClientReport, Load, Progress, ServerConfig, Service, Timestamp},
    network::Network,
    probe::cpu,
    process::Process,
    proxy::{Proxy, RunningProxy},
    scenario::Case,
};

/// The ids of the server that dies, of the one that stays, of the one that returns.
const DIES: u8 = 1;
const STAYS: u8 = 2;
const RETURNS: u8 = 3;

/// How long a proxy may leave the returned server unused.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// The client and what it told last.
struct ChurnClient {
    client: Process,
    running: RunningProxy,
    last: Progress,
}

/// Measures: a window with both, one with the second alone, and until the first is back.
pub(super) fn measure(
    context: &RunContext<'_>,
    case: &Case,
    proxy: &Proxy,
    network: &Network,
) -> Result<Measurement> {
    let Load::Churn { size, .. } = case.load else { bail!("{} is no churn", case.id) };
    let service = |id| Service::Answer { size, id };
    let dies = Server::start(service(DIES), &network.server, context.directory)?;
    let stays = Server::start(service(STAYS), &network.server, context.directory)?;
    let running = context.start_proxy(case, proxy, network, &[&dies, &stays])?;
    // Far longer than it takes: it is stopped.
    let long = RunContext { window: Duration::from_secs(3600), ..*context };
    let client = long.client(case, network, &running, &stays)?;
    let mut churn = ChurnClient { client, running, last: Progress::default() };

    let (started, cpu_used) = (Instant::now(), cpu::seconds()?);
    churn.follow(context.window, |_| false)?;
    for id in [DIES, STAYS] {
        let used = churn.last.first_answer.contains_key(&id);
        ensure!(used, "server {id} of 2 was not used within {:?}", context.window);
    }
    let before = churn.last.errors;
    let address = dies.address;
    let death = Timestamp::now();
    dies.kill();
    churn.follow(context.window, |_| false)?;
    let job = ServerConfig::new(service(RETURNS), address, context.directory);
    let back = Server::with(job, &network.server, context.directory)?;
    let birth = Timestamp::now();
    churn.follow(RECOVERY_TIMEOUT, |progress| progress.first_answer.contains_key(&RETURNS))?;
    let cpu_used = cpu::seconds()? - cpu_used;
    let seconds = started.elapsed().as_secs_f64();
    drop(back);

    let Progress { done, errors, last_error, slowest, first_answer } = churn.last;
    let mut measurement = Measurement::default();
    match first_answer.get(&RETURNS) {
        Some(answer) => {
            measurement.add("recovery ms", Better::Lower, answer.millis_since(birth));
        }
        None => {
            let why = format!("the returned server was not used within {RECOVERY_TIMEOUT:?}");
            measurement.remarks.push(why);
        }
    }
    let outage = last_error.map_or(0.0, |last| last.millis_since(death));
    measurement.add("errors", Better::Lower, (errors - before) as f64);
    measurement.add("errors until ms", Better::Lower, outage);
    measurement.add("slowest request ms", Better::Lower, slowest.as_secs_f64() * 1e3);
    measurement.add("requests/s", Better::Higher, done as f64 / seconds);
    measurement.add("CPU µs/request", Better::Lower, cpu_used * 1e6 / done as f64);
    if before > 0 {
        measurement.remarks.push(format!("{before} connections failed while both servers were up"));
    }
    Ok(measurement)
}

impl ChurnClient {
    /// Listens for that long, or until `is_done`.
    fn follow(&mut self, time: Duration, is_done: impl Fn(&Progress) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !is_done(&self.last) {
            let report = self.client.receive(PROGRESS_TIMEOUT);
            self.running.check_running()?;
            match report? {
                ClientReport::Progress(progress) => self.last = progress,
                other => bail!("the client reports {other:?}"),
            }
        }
        Ok(())
    }
}
