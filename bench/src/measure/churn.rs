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
const FAILING: u8 = 1;
const REMAINING: u8 = 2;
const RETURNED: u8 = 3;

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
    let failing = Server::start(service(FAILING), &network.server, context.directory)?;
    let remaining = Server::start(service(REMAINING), &network.server, context.directory)?;
    let running = context.start_proxy(case, proxy, network, &[&failing, &remaining])?;
    // The client is stopped long before this window ends.
    let endless = RunContext { window: Duration::from_secs(3600), ..*context };
    let client = endless.client(case, network, &running, &remaining)?;
    let mut churn = ChurnClient { client, running, last: Progress::default() };

    let (started, cpu_before) = (Instant::now(), cpu::seconds()?);
    churn.follow(context.window, |_| false)?;
    for id in [FAILING, REMAINING] {
        let used = churn.last.first_answer.contains_key(&id);
        ensure!(used, "server {id} of 2 received no client within {} s", context.window.as_secs());
    }
    let errors_before = churn.last.errors;
    let address = failing.address;
    let failed_at = Timestamp::now();
    failing.kill();
    churn.follow(context.window, |_| false)?;
    let config = ServerConfig::new(service(RETURNED), address, context.directory);
    let returned = Server::with(config, &network.server, context.directory)?;
    let returned_at = Timestamp::now();
    churn.follow(RECOVERY_TIMEOUT, |progress| progress.first_answer.contains_key(&RETURNED))?;
    let cpu_used = cpu::seconds()? - cpu_before;
    let seconds = started.elapsed().as_secs_f64();
    drop(returned);

    let Progress { requests, errors, last_error, slowest, first_answer } = churn.last;
    let mut measurement = Measurement::default();
    match first_answer.get(&RETURNED) {
        Some(answer) => {
            measurement.add("recovery ms", Better::Lower, answer.millis_since(returned_at));
        }
        None => {
            let why = format!(
                "the returned server received no client within {} s",
                RECOVERY_TIMEOUT.as_secs()
            );
            measurement.remarks.push(why);
        }
    }
    let outage = last_error.map_or(0.0, |last| last.millis_since(failed_at));
    measurement.add("errors", Better::Lower, (errors - errors_before) as f64);
    measurement.add("errors until ms", Better::Lower, outage);
    measurement.add("slowest request ms", Better::Lower, slowest.as_secs_f64() * 1e3);
    measurement.add("requests/s", Better::Higher, requests as f64 / seconds);
    measurement.add("CPU µs/request", Better::Lower, cpu_used * 1e6 / requests as f64);
    if errors_before > 0 {
        measurement
            .remarks
            .push(format!("{errors_before} connections failed while both servers were up"));
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
                other => bail!("unexpected report of the client: {}", other.name()),
            }
        }
        Ok(())
    }
}
