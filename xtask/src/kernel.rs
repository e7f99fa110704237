//! Tests on other kernels: Debian's, each in a virtual machine that is made for it and gone after.
//!
//! Invariant: a kernel passes only if its machine has said so; one that stops, or takes too long,
//! has failed.

mod boot;
mod download;
mod image;
mod modules;

use std::{
    env, iter,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub(crate) use self::download::KEYS;
use crate::executables;

/// What every datapath has to be good at, on any kernel: test executables, and what they are given.
const ALWAYS: [&str; 6] = ["integrity", "closing", "stall", "overlap", "failover", "handovers"];

/// What there is time for beside, where nobody waits: hosts and networks of their own.
const BESIDE: [&str; 3] = ["splice", "network", "weather"];

/// A kernel, by what its version begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    #[value(name = "5.10")]
    Bullseye,
    #[value(name = "6.1")]
    Bookworm,
    #[value(name = "6.12")]
    Backports,
    #[value(name = "7.2")]
    Sid,
}

impl Kernel {
    fn version(self) -> &'static str {
        match self {
            Self::Bullseye => "5.10",
            Self::Bookworm => "6.1",
            Self::Backports => "6.12",
            Self::Sid => "7.2",
        }
    }

    /// The suites of Debian that have it; the newest of all of them is taken.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Bullseye => &["bullseye", "bullseye-security"],
            Self::Bookworm => &["bookworm", "bookworm-security"],
            Self::Backports => &["bookworm-backports"],
            Self::Sid => &["sid"],
        }
    }
}

/// What is run on a kernel.
struct Plan<'a> {
    /// As the first process of the machine is told it.
    datapaths: &'static str,
    /// Test executables.
    tests: Vec<&'a str>,
    /// Parts of the names of tests that are left out, each with a `-` before it.
    without: Vec<&'a str>,
    /// How long it may take: several times what it takes where there is no hardware for virtual
    /// machines.
    limit: Duration,
}

/// Runs tests on each of these kernels, on all datapaths that work there: all of them, or as `which`
/// says.
pub(crate) fn test(kernels: &[Kernel], which: &[String]) -> Result<()> {
    let which = which.iter().map(String::as_str);
    let (without, mut tests): (Vec<_>, Vec<_>) = which.partition(|word| word.starts_with('-'));
    if tests.is_empty() {
        tests = ALWAYS.into_iter().chain(BESIDE).collect();
    }
    let limit = Duration::from_secs(90 * 60);
    run(kernels, &Plan { datapaths: "all", tests, without, limit })
}

fn run(kernels: &[Kernel], plan: &Plan<'_>) -> Result<()> {
    // balance runs in them as it was built here.
    ensure!(env::consts::ARCH == "x86_64", "the kernels that are fetched are for x86_64");
    let programs = executables::build(&plan.tests)?;
    for &kernel in kernels {
        let begun = Instant::now();
        let on = || format!("Linux {}", kernel.version());
        let tree = download::fetch(kernel).with_context(on)?;
        let image = image::make(&tree, &programs).with_context(on)?;
        boot::run(&image, &plan.arguments(), plan.limit).with_context(on)?;
        eprintln!("{}: passed in {} s", on(), begun.elapsed().as_secs());
    }
    Ok(())
}

impl Plan<'_> {
    /// For the first process of the machine.
    fn arguments(&self) -> Vec<String> {
        let words = iter::once(&self.datapaths).chain(&self.tests).chain(&self.without);
        words.map(|&word| word.to_owned()).collect()
    }
}
