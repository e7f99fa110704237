//! Tests on other kernels: Debian's, each in a virtual machine that is made for it and gone after.
//!
//! Invariant: a kernel passes only if its machine has reported so; one that stops, takes too long, runs
//! no test or takes another datapath than it should has failed.

mod boot;
mod download;
mod image;
mod modules;
mod tally;
mod tools;

use std::{
    collections::BTreeSet,
    env, iter, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::tools::Tools;
use crate::{
    executables::{self, Programs},
    skip::skip,
};

/// What is run where nobody waits: test executables. What every datapath has to be good at, and what
/// hosts and networks of their own show.
const TESTS: [&str; 12] = [
    "datapaths/integrity::",
    "datapaths/closing::",
    "datapaths/stall::",
    "datapaths/overlap::",
    "selection/failover::",
    "process/crash::",
    "datapaths/handovers::",
    "load/soak_",
    "datapaths/self_test::",
    "networks/splice::",
    "networks/topologies::",
    "networks/link_conditions::",
];

/// What CI has time for: the same, behind a `/` which tests of them.
const BRIEFLY: [&str; 5] = [
    "datapaths/both_sides_may_send_at_once",
    "datapaths/passes_through",
    "selection/groups",
    "process/crash::",
    "load/soak_runs::on_",
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

    /// The datapath that `auto` has to take, else its tests are not run.
    fn datapath(self) -> &'static str {
        match self {
            Self::Bullseye => "relay",
            Self::Bookworm | Self::Backports | Self::Sid => "splice",
        }
    }

    /// The suites of Debian that have it, and what it depends on; the newest of all of them is taken.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Bullseye => &["bullseye", "bullseye-security"],
            Self::Bookworm => &["bookworm", "bookworm-security"],
            Self::Backports => &["bookworm", "bookworm-backports"],
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
    let tools = make_ready(kernels)?;
    let which = which.iter().map(String::as_str);
    let (without, mut tests): (Vec<_>, Vec<_>) = which.partition(|word| word.starts_with('-'));
    if tests.is_empty() {
        tests = TESTS.into();
    }
    let datapaths = if all_datapaths { "all" } else { "auto" };
    let limit = Duration::from_secs(90 * 60);
    let plan = Plan { datapaths, tests, without, limit };
    // One after the other: on a machine with more to do than it can, long tests fail.
    kernels.iter().try_for_each(|&kernel| run(&tools, &[kernel], &plan))
}

/// Runs a few on the kernels that CI boots, or reports why that cannot be done.
pub(crate) fn test_briefly() -> Result<()> {
    match make_ready(&Kernel::IN_CI) {
        Ok(tools) => {
            let limit = Duration::from_secs(10 * 60);
            let (tests, without) = (BRIEFLY.into(), Vec::new());
            run(&tools, &Kernel::IN_CI, &Plan { datapaths: "auto", tests, without, limit })
        }
        Err(why) => skip("tests on other kernels", &format!("{why:#}")),
    }
}

/// Makes sure that the kernels that CI boots are there, and what boots them.
pub(crate) fn set_up() -> Result<()> {
    match make_ready(&Kernel::IN_CI) {
        Ok(_) => Ok(()),
        Err(why) => skip("the set-up of other kernels", &format!("{why:#}")),
    }
}

/// Fetches the kernels, and the programs that make machines with them.
fn make_ready(kernels: &[Kernel]) -> Result<Tools> {
    // balance runs in them as it was built here.
    ensure!(env::consts::ARCH == "x86_64", "the kernels that are fetched are for x86_64");
    let tools = Tools::fetch().context("the programs for virtual machines")?;
    for &kernel in kernels {
        let tree =
            download::fetch(kernel).with_context(|| format!("Linux {}", kernel.version()))?;
        eprintln!("test kernel {}: {}", kernel.version(), tree.release);
    }
    Ok(tools)
}

/// Runs the plan on all of these kernels at the same time.
fn run(tools: &Tools, kernels: &[Kernel], plan: &Plan<'_>) -> Result<()> {
    let programs = executables::build(&plan.executables())?;
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let programs = &programs;
        let on = |&kernel| scope.spawn(move || run_on(tools, kernel, programs, plan));
        let machines: Vec<_> = kernels.iter().map(on).collect();
        machines.into_iter().map(|machine| machine.join().expect("no panic")).collect()
    });
    results.into_iter().collect()
}

fn run_on(tools: &Tools, kernel: Kernel, programs: &Programs, plan: &Plan<'_>) -> Result<()> {
    let begun = Instant::now();
    let on = || format!("Linux {}", kernel.version());
    let tree = download::fetched(kernel).context("it has gone").with_context(on)?;
    let dir = download::place(kernel).join("machine");
    let image = image::make(tools, &dir, &tree, programs).with_context(on)?;
    let tally = boot::run(tools, &image, kernel.version(), &plan.arguments(), plan.limit)
        .with_context(on)?;
    eprintln!("{}: {tally}; {} s", on(), begun.elapsed().as_secs());
    let (taken, expected) = (tally.taken(), kernel.datapath());
    ensure!(taken == Some(expected), "{}: auto takes {taken:?}, not {expected}", on());
    Ok(())
}

impl Plan<'_> {
    /// The names of the test executables, each once.
    fn executables(&self) -> Vec<&str> {
        let tests = self.tests.iter();
        let names: BTreeSet<&str> =
            tests.map(|test| test.split_once('/').map_or(*test, |(name, _)| name)).collect();
        names.into_iter().collect()
    }

    /// For the first process of the machine.
    fn arguments(&self) -> Vec<String> {
        let words = iter::once(&self.datapaths).chain(&self.tests).chain(&self.without);
        words.map(|&word| word.to_owned()).collect()
    }
}
