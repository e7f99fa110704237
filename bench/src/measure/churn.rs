//! Measures the effect on clients when one of two backends fails and returns.
//!
//! Invariant: the returned server has an id of its own, so only its answers count as recovery.

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

/// The ids of the failing server, of the remaining server and of the returned server.
const DIES: u8 = 1;
const STAYS: u8 = 2;
const RETURNS: u8 = 3;

/// Time limit for a proxy to use the returned server.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// The client with its latest report.
struct ChurnClient {
    client: Process,
    running: RunningProxy,
    last: Progress,
}

/// Measures one window with both servers, one window with the second server alone, and the time
/// until the first server is used again.
pub(super) fn measure(
    context: &RunContext<'_>,
    case: &Case,
    proxy: &Proxy,
    network: &Network,
) -> Result<Measurement> {
    let Load::Churn { size, .. } = case.load else { bail!("{} is not a churn case", case.id) };
    let service = |id| Service::Answer { size, id };
    let dies = Server::start(service(DIES), &network.server, context.directory)?;
    let stays = Server::start(service(STAYS), &network.server, context.directory)?;
    let running = context.start_proxy(case, proxy, network, &[&dies, &stays])?;
    // The client is stopped long before this window ends.
    let long = RunContext { window: Duration::from_secs(3600), ..*context };
    let client = long.client(case, network, &running, &stays)?;
    let mut churn = ChurnClient { client, running, last: Progress::default() };

    let (started, cpu_used) = (Instant::now(), cpu::seconds()?);
    churn.follow(context.window, |_| false)?;
    for id in [DIES, STAYS] {
        let used = churn.last.first_answer.contains_key(&id);
        ensure!(used, "server {id} of 2 received no client within {:?}", context.window);
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
            let why = format!("the returned server received no client within {RECOVERY_TIMEOUT:?}");
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
    /// Reads reports for this time or until `is_done`.
    fn follow(&mut self, time: Duration, is_done: impl Fn(&Progress) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !is_done(&self.last) {
            let report = self.client.receive(PROGRESS_TIMEOUT);
            self.running.check_running()?;
            match report? {
                ClientReport::Progress(progress) => self.last = progress,
                other => bail!("unexpected report of the client: {other:?}"),
            }
        }
        Ok(())
    }
}
