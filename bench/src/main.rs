//! Load-testing harness of balance: measures it beside its peers, on the same work in the same
//! run. `cargo xtask bench` builds all that is needed and calls it.
//!
//! One word per thing: a *peer* is what stands between our client and our server; a *scenario*
//! is a kind of work, of which there are *cases*; a *round* measures a case once with each peer;
//! a *figure* is what was measured.
//!
//! Invariant: no figure is made up: what cannot be measured is named and left out.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the terminal is what a harness is for: results on stdout, progress on stderr"
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
        [endpoint::SERVER, job] => server::run(job),
        [endpoint::CLIENT, job] => client::run(job),
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
