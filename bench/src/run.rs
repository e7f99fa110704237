//! A run: measures every case in every round with every proxy.
//!
//! Invariants: within a round the proxies follow each other directly, so other work on the machine
//! affects all of them alike. The results are stored even if a signal ends the run.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    args::Options,
    chart, compare, interrupt,
    measure::{RunContext, wait_for_time_wait},
    network::{self, Network},
    probe::machine::{Machine, raise_descriptors},
    proxy::Proxy,
    results::{FORMAT, ProxyInfo, Results},
    samples::CaseSamples,
    scenario::{self, Case, Method},
    table,
};

/// File descriptors of a proxy that are not connections.
const SPARE_DESCRIPTORS: u64 = 500;

/// Runs the benchmark as the command line says.
pub(crate) fn run(options: &Options) -> Result<()> {
    let proxies = Proxy::all(&options.proxies, &options.proxy_cmd, &options.balance)?;
    let machine = Machine::read()?;
    let idle = idle_connections(options.idle_connections, machine.descriptors);
    let cases = scenario::select(&options.scenarios, idle)?;
    let old = options.compare.as_deref().map(Results::load).transpose()?;
    if options.missing_packages {
        let mut packages: BTreeSet<_> = proxies.iter().filter_map(Proxy::missing_package).collect();
        if cases.iter().any(|case| case.uses_namespaces) {
            packages.extend(network::missing_package());
        }
        packages.into_iter().flat_map(str::split_whitespace).for_each(|name| println!("{name}"));
        return Ok(());
    }
    interrupt::watch_signals()?;
    let cases = measurable(cases);
    ensure!(!cases.is_empty(), "no case can be measured");
    raise_descriptors().context("cannot raise the limit of descriptors")?;
    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;

    let (mut available, mut measured, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for proxy in proxies {
        match proxy.version() {
            Ok(what) => {
                measured.push(ProxyInfo { proxy: proxy.name.clone(), what });
                available.push(proxy);
            }
            Err(why) => {
                eprintln!("proxy {} is left out: {why:#}", proxy.name);
                left_out.push(ProxyInfo { proxy: proxy.name, what: format!("{why:#}") });
            }
        }
    }
    ensure!(available.len() > 1, "no proxy is available");
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut results = Results {
        format: FORMAT,
        unix_time: start.as_secs(),
        command: command(env::args_os()),
        machine,
        secs: options.secs,
        rounds: options.rounds,
        interrupted: false,
        proxies: measured,
        left_out,
        cases: Vec::new(),
    };
    measure(options, &cases, &available, &mut results)?;

    let file = out.join("results.json");
    results.save(&file)?;
    if let Some(old) = old {
        println!("{}", compare::report(&old, &results));
    }
    let charts = chart::draw_all(&results, out)?;
    eprintln!("{} and {charts} charts (SVG and PNG) are written", file.display());
    interrupt::check()
}

/// Returns the cases that can be measured on this machine.
fn measurable(mut cases: Vec<Case>) -> Vec<Case> {
    if let Some(case) = cases.iter().find(|case| case.uses_namespaces)
        && let Err(why) = Network::namespaces(true)
    {
        eprintln!("scenario {} is left out: {why:#}", case.scenario);
        cases.retain(|case| !case.uses_namespaces);
    }
    cases
}

fn measure(
    options: &Options,
    cases: &[Case],
    proxies: &[Proxy],
    results: &mut Results,
) -> Result<()> {
    let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
    let context = RunContext {
        window: Duration::from_secs(options.secs),
        workers: results.machine.cpus,
        directory: directory.path(),
    };
    let measurements = cases.len() as u64 * u64::from(options.rounds) * proxies.len() as u64;
    let progress = ProgressBar::new(measurements).with_style(
        ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {pos}/{len} {msg} ({eta})")
            .context("cannot make a progress bar")?,
    );
    progress.enable_steady_tick(Duration::from_millis(500));
    println!("{}", table::header(results));
    if cases.iter().any(|case| matches!(case.method, Method::Memory(..))) {
        progress.set_message("waiting for sockets in TIME_WAIT");
        // The loop below checks for signals.
        let _ = wait_for_time_wait();
    }
    for case in cases {
        let mut samples = CaseSamples::new(case, proxies.iter().map(|proxy| proxy.name.as_str()));
        'rounds: for round in 1..=options.rounds {
            for (nth, proxy) in proxies.iter().enumerate() {
                progress.set_message(format!("{} round {round}: {}", case.id, proxy.name));
                let measured = context.measure(case, proxy);
                if interrupt::is_interrupted() {
                    results.interrupted = true;
                    break 'rounds;
                }
                samples.add(nth, round, measured);
                progress.inc(1);
            }
        }
        let case = samples.finish();
        progress.suspend(|| println!("{}", table::case(&case)));
        results.cases.push(case);
        if results.interrupted {
            break;
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// Returns the command line that the user typed. xtask inserts `--balance FILE` as first option.
fn command(mut words: impl Iterator<Item = OsString>) -> Vec<String> {
    words.next();
    let mut words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    if words.first().is_some_and(|word| word == "--balance") {
        words.drain(..words.len().min(2));
    }
    ["cargo", "xtask", "bench"].map(str::to_owned).into_iter().chain(words).collect()
}

/// Limits the idle connections to those for which a proxy has two file descriptors each.
fn idle_connections(asked: u32, descriptors: u64) -> usize {
    let fit = descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2;
    if u64::from(asked) > fit {
        eprintln!(
            "idle: {asked} connections need two descriptors each in a proxy and the limit is \
             {descriptors}: measured with {fit}"
        );
    }
    usize::try_from(u64::from(asked).min(fit)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_what_the_user_typed() {
        let words = |words: &[&str]| {
            command(words.iter().map(OsString::from).collect::<Vec<_>>().into_iter()).join(" ")
        };
        let built = ["bench", "--balance", "balance"];
        assert_eq!(words(&built), "cargo xtask bench");
        assert_eq!(words(&[&built[..], &["rr"]].concat()), "cargo xtask bench rr");
        assert_eq!(words(&["bench", "conn"]), "cargo xtask bench conn");
    }

    #[test]
    fn idle_connections_fit_the_limit() {
        assert_eq!(idle_connections(4000, 20_000), 4000);
        assert_eq!(idle_connections(10_000, 20_000), 9750);
    }
}
