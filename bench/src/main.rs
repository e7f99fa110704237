//! Benchmark of balance: measures balance and other proxies with the same workload in the same run.
//! `cargo xtask bench` builds everything that is needed and runs the benchmark.
//!
//! Terms: a *proxy* forwards connections from the client process to the server process; `direct` is
//! the measurement without a proxy. A *scenario* is a kind of workload and consists of *cases*. A
//! *round* measures a case once with each proxy. A *figure* is a measured value.
//!
//! Invariant: every figure is measured. What cannot be measured is reported and left out.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark writes to the terminal: results on stdout, progress on stderr"
)]

mod args;
mod chart;
mod client;
mod compare;
mod endpoint;
mod interrupt;
mod measure;
mod messages;
mod network;
mod port;
mod probe;
mod process;
mod proxy;
mod results;
mod run;
mod samples;
mod scenario;
mod server;
mod statistics;
mod streams;
mod table;

use std::{env, process::ExitCode};

use clap::Parser as _;

fn main() -> ExitCode {
    let words: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [endpoint::SERVER, config] => server::run(config),
        [endpoint::CLIENT, config] => client::run(config),
        _ => run::run(&args::Options::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
