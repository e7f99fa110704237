//! Measuring what is done within a time.
//!
//! Invariant: CPU time is the whole system's, generator and server included: they cost the same
//! with every peer, and what the kernel does for a peer is nowhere else to be found.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Bench, Better, Measured};
use crate::{
    helper::Server,
    job::{Counted, Report},
    network::Network,
    peer::Peer,
    scenario::{Case, Way},
};

/// How much longer than its window a client may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures.
pub(super) fn measure(
    bench: &Bench<'_>,
    case: &Case,
    peer: &Peer,
    network: &Network,
) -> Result<Measured> {
    let server = Server::start(case.service, &network.server, bench.directory)?;
    let mut proxy = bench.proxy(case, peer, network, &[&server])?;
    let mut client = bench.client(case, network, &proxy, &server)?;
    let report = client.answer(bench.window * 2 + PATIENCE);
    // Why it ended says more than what the client noticed of it.
    proxy.check()?;
    match report? {
        Report::Done(counted) => figures(case.way, &counted),
        other => bail!("the client reports {other:?}"),
    }
}

fn figures(way: Way, counted: &Counted) -> Result<Measured> {
    let mut measured = Measured::default();
    let Counted { seconds, cpu, operations, bytes, errors, .. } = *counted;
    if let Way::Timed(operation) = way {
        let latency = counted.latency.with_context(|| {
            format!("no {operation} was done: {}", counted.first_error.as_deref().unwrap_or("?"))
        })?;
        measured.add(format!("{operation}s/s"), Better::Higher, operations as f64 / seconds);
        measured.add("p50 µs", Better::Lower, latency.p50);
        measured.add("p99 µs", Better::Lower, latency.p99);
        measured.add("p99.9 µs", Better::Lower, latency.p999);
        let micros = cpu * 1e6 / operations as f64;
        measured.add(format!("CPU µs/{operation}"), Better::Lower, micros);
        measured.add("errors", Better::Lower, errors as f64);
    } else {
        ensure!(bytes > 0, "nothing arrived");
        let gigabytes = bytes as f64 / 1e9;
        measured.add("Gb/s", Better::Higher, gigabytes * 8.0 / seconds);
        measured.add("CPU s/GB", Better::Lower, cpu / gigabytes);
    }
    if let Some(why) = &counted.first_error {
        measured.remarks.push(format!("{errors} connections failed, the first: {why}"));
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Latency;

    fn values(measured: &Measured) -> Vec<(&str, f64)> {
        measured.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect()
    }

    #[test]
    fn requests_are_told_per_second_and_their_cost_each() {
        let counted = Counted {
            seconds: 2.0,
            cpu: 3.0,
            operations: 1000,
            latency: Some(Latency { p50: 1.0, p99: 2.0, p999: 3.0 }),
            ..Counted::default()
        };
        let measured = figures(Way::Timed("request"), &counted).unwrap();
        let values = values(&measured);
        assert_eq!(values[0], ("requests/s", 500.0));
        assert_eq!(values[4], ("CPU µs/request", 3000.0));
    }

    #[test]
    fn bytes_are_told_in_bits() {
        let counted =
            Counted { seconds: 2.0, cpu: 3.0, bytes: 5_000_000_000, ..Counted::default() };
        let measured = figures(Way::Bytes, &counted).unwrap();
        assert_eq!(values(&measured), [("Gb/s", 20.0), ("CPU s/GB", 0.6)]);
    }

    #[test]
    fn nothing_done_is_an_error() {
        assert!(figures(Way::Bytes, &Counted::default()).is_err());
        assert!(figures(Way::Timed("mail"), &Counted::default()).is_err());
    }
}
