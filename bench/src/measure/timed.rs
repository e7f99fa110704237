//! Measures the work done within a time.
//!
//! Invariant: CPU time is that of the whole system. The load generator and the server cost the same
//! with every proxy, and the kernel's work for a proxy is not accounted to its process.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Better, Measurement, RunContext};
use crate::{
    endpoint::Server,
    messages::{ClientReport, WindowCounts},
    network::Network,
    proxy::Proxy,
    scenario::{Case, Method},
};

/// Time limit for a client beyond its warm-up and window.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures.
pub(super) fn measure(
    context: &RunContext<'_>,
    case: &Case,
    proxy: &Proxy,
    network: &Network,
) -> Result<Measurement> {
    let server = Server::start(case.service, &network.server, context.directory)?;
    let mut running = context.start_proxy(case, proxy, network, &[&server])?;
    let mut client = context.client(case, network, &running, &server)?;
    let report = client.receive(context.window * 2 + TIMEOUT);
    // The error of a proxy that has ended explains more than the client's error.
    running.check_running()?;
    match report? {
        ClientReport::Done(counted) => figures(case.method, &counted),
        other => bail!("unexpected report of the client: {}", other.name()),
    }
}

fn figures(method: Method, counted: &WindowCounts) -> Result<Measurement> {
    let mut measurement = Measurement::default();
    let WindowCounts { seconds, cpu, operations, bytes, errors, .. } = *counted;
    if let Method::Operations(operation) = method {
        let latency = counted.latency.with_context(|| {
            format!("no {operation} completed: {}", counted.first_error.as_deref().unwrap_or("?"))
        })?;
        measurement.add(format!("{operation}s/s"), Better::Higher, operations as f64 / seconds);
        measurement.add("p50 µs", Better::Lower, latency.p50);
        measurement.add("p99 µs", Better::Lower, latency.p99);
        measurement.add("p99.9 µs", Better::Lower, latency.p999);
        let micros = cpu * 1e6 / operations as f64;
        measurement.add(format!("CPU µs/{operation}"), Better::Lower, micros);
        measurement.add("errors", Better::Lower, errors as f64);
    } else {
        ensure!(bytes > 0, "nothing arrived");
        let gigabytes = bytes as f64 / 1e9;
        measurement.add("Gb/s", Better::Higher, gigabytes * 8.0 / seconds);
        measurement.add("CPU s/GB", Better::Lower, cpu / gigabytes);
    }
    if let Some(why) = &counted.first_error {
        measurement.remarks.push(format!("{errors} connections failed, the first: {why}"));
    }
    Ok(measurement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Latency;

    fn values(measurement: &Measurement) -> Vec<(&str, f64)> {
        measurement.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect()
    }

    #[test]
    fn requests_are_reported_per_second_with_their_cost() {
        let counted = WindowCounts {
            seconds: 2.0,
            cpu: 3.0,
            operations: 1000,
            latency: Some(Latency { p50: 1.0, p99: 2.0, p999: 3.0 }),
            ..WindowCounts::default()
        };
        let measurement = figures(Method::Operations("request"), &counted).unwrap();
        let values = values(&measurement);
        assert_eq!(values[0], ("requests/s", 500.0));
        assert_eq!(values[4], ("CPU µs/request", 3000.0));
    }

    #[test]
    fn throughput_is_reported_in_bits() {
        let counted = WindowCounts {
            seconds: 2.0,
            cpu: 3.0,
            bytes: 5_000_000_000,
            ..WindowCounts::default()
        };
        let measurement = figures(Method::Throughput, &counted).unwrap();
        assert_eq!(values(&measurement), [("Gb/s", 20.0), ("CPU s/GB", 0.6)]);
    }

    #[test]
    fn a_window_without_work_is_an_error() {
        assert!(figures(Method::Throughput, &WindowCounts::default()).is_err());
        assert!(figures(Method::Operations("mail"), &WindowCounts::default()).is_err());
    }
}
