//! Tests on other kernels: Debian's, each in a virtual machine that is made for it and gone after.
//!
//! Invariant: a kernel passes only if its machine has said so; one that stops, or takes too long,
//! or has run no test, has failed.

mod boot;
mod download;
mod image;
mod modules;
mod tally;

use std::{
    env, iter,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub(crate) use self::download::KEYS;
use crate::{executables, peers};

/// What is run where nobody waits: test executables. What every datapath has to be good at, and what
/// hosts and networks of their own show.
const TESTS: [&str; 12] = [
    "integrity",
    "closing",
    "stall",
    "overlap",
    "failover",
    "crash",
    "handovers",
    "lives",
    "unfit",
    "splice",
    "network",
    "weather",
];

/// What CI has time for: the same, behind a `/` which tests of them.
const BRIEFLY: [&str; 5] = [
    "integrity/both_sides_may_speak_at_once",
    "closing/passes_through",
    "failover/groups",
    "crash",
    "lives/on_",
];

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
    /// Those that CI boots: one that has only the relay, and one with the oldest way to attach the
    /// splice program.
    const IN_CI: [Self; 2] = [Self::Bullseye, Self::Bookworm];

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
    /// Test executables, each perhaps with a `/` and a part of its tests' names behind it.
    tests: Vec<&'a str>,
    /// Parts of the names of tests that are left out, each with a `-` before it.
    without: Vec<&'a str>,
    /// How long it may take: several times what it takes where there is no hardware for virtual
    /// machines.
    limit: Duration,
}

/// Runs tests on each of these kernels: all of them, or as `which` says; on the datapath that balance
/// takes there, or on all that work.
pub(crate) fn test(kernels: &[Kernel], all_datapaths: bool, which: &[String]) -> Result<()> {
    make_ready(kernels)?;
    let which = which.iter().map(String::as_str);
    let (without, mut tests): (Vec<_>, Vec<_>) = which.partition(|word| word.starts_with('-'));
    if tests.is_empty() {
        tests = TESTS.into();
    }
    let datapaths = if all_datapaths { "all" } else { "auto" };
    let limit = Duration::from_secs(90 * 60);
    run(kernels, &Plan { datapaths, tests, without, limit })
}

/// Runs a few on the kernels that CI boots. Everything else can be tested without: where they cannot
/// be had, that is told.
pub(crate) fn test_briefly() -> Result<()> {
    if let Err(why) = make_ready(&Kernel::IN_CI) {
        eprintln!("skipped: tests on other kernels: {why:#}");
        return Ok(());
    }
    let limit = Duration::from_secs(6 * 60);
    let plan = Plan { datapaths: "auto", tests: BRIEFLY.into(), without: Vec::new(), limit };
    run(&Kernel::IN_CI, &plan)
}

/// Makes sure that the kernels that CI boots are there, and what boots them, or tells why not.
pub(crate) fn set_up() {
    if let Err(why) = make_ready(&Kernel::IN_CI) {
        eprintln!("other kernels cannot be tested: {why:#}");
    }
}

fn make_ready(kernels: &[Kernel]) -> Result<()> {
    // balance runs in them as it was built here.
    ensure!(env::consts::ARCH == "x86_64", "the kernels that are fetched are for x86_64");
    peers::install_machines()?;
    for &kernel in kernels {
        let tree =
            download::fetch(kernel).with_context(|| format!("Linux {}", kernel.version()))?;
        eprintln!("test kernel {}: {}", kernel.version(), tree.release);
    }
    Ok(())
}

fn run(kernels: &[Kernel], plan: &Plan<'_>) -> Result<()> {
    let programs = executables::build(&plan.executables())?;
    for &kernel in kernels {
        let begun = Instant::now();
        let on = || format!("Linux {}", kernel.version());
        let tree = download::fetched(kernel).context("it has gone").with_context(on)?;
        let dir = download::place(kernel).join("machine");
        let image = image::make(&dir, &tree, &programs).with_context(on)?;
        let tally = boot::run(&image, &plan.arguments(), plan.limit).with_context(on)?;
        eprintln!("{}: {tally}; {} s", on(), begun.elapsed().as_secs());
    }
    Ok(())
}

impl Plan<'_> {
    /// The executables alone.
    fn executables(&self) -> Vec<&str> {
        let tests = self.tests.iter();
        tests.map(|test| test.split_once('/').map_or(*test, |(name, _)| name)).collect()
    }

    /// For the first process of the machine.
    fn arguments(&self) -> Vec<String> {
        let words = iter::once(&self.datapaths).chain(&self.tests).chain(&self.without);
        words.map(|&word| word.to_owned()).collect()
    }
}
