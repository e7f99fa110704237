//! Tests on other kernels of Debian, each in a new virtual machine.
//!
//! Invariant: a kernel passes only if its machine reports success. A machine fails if it stops
//! early, exceeds its time, runs no test or uses another datapath than expected.

pub(crate) mod boot;
pub(crate) mod download;
pub(crate) mod image;
pub(crate) mod modules;
mod tally;
pub(crate) mod tools;

use std::{
    collections::BTreeSet,
    env, iter, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{boot::Machine, tally::Tally, tools::Tools};
use crate::{
    executables::{self, Programs},
    skip::skip,
};

/// The test executables of a full run: the tests of every datapath, and the tests with hosts and
/// networks of their own.
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

/// The tests of a CI run, which is short. The part after a `/` selects tests of an executable.
const CI_TESTS: [&str; 5] = [
    "datapaths/both_sides_may_send_at_once",
    "datapaths/passes_through",
    "selection/groups",
    "process/crash::",
    "load/soak_runs::on_",
];

/// Memory of a machine.
const MEMORY_MIB: u32 = 1536;

/// A kernel, identified by the first numbers of its version.
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
    /// The kernels of a CI run: one that supports only the relay, and one with the oldest way to
    /// attach the splice program.
    const IN_CI: [Self; 2] = [Self::Bullseye, Self::Bookworm];

    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Bullseye => "5.10",
            Self::Bookworm => "6.1",
            Self::Backports => "6.12",
            Self::Sid => "7.2",
        }
    }

    /// Returns the datapath that `auto` must choose. The tests do not run on another one.
    fn datapath(self) -> &'static str {
        match self {
            Self::Bullseye => "relay",
            Self::Bookworm | Self::Backports | Self::Sid => "splice",
        }
    }

    /// Returns the suites of Debian with the kernel and its dependencies. The newest version is
    /// used.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Bullseye => &["bullseye", "bullseye-security"],
            Self::Bookworm => &["bookworm", "bookworm-security"],
            Self::Backports => &["bookworm", "bookworm-backports"],
            Self::Sid => &["sid"],
        }
    }
}

/// A test run on a kernel.
struct Plan<'a> {
    /// The datapaths, as an argument of the machine's init process.
    datapaths: &'static str,
    /// Test executables, each optionally with a `/` and a part of the test names.
    tests: Vec<&'a str>,
    /// Parts of the names of tests to skip, each with a `-` prefix.
    skipped: Vec<&'a str>,
    /// Time limit: several times what a run takes without hardware virtualisation.
    limit: Duration,
}

/// Runs tests on each of these kernels: the tests in `which`, or all if `which` is empty. Uses the
/// datapath that `auto` chooses, or all datapaths that work.
pub(crate) fn test(kernels: &[Kernel], all_datapaths: bool, which: &[String]) -> Result<()> {
    let tools = make_ready(kernels)?;
    let which = which.iter().map(String::as_str);
    let (skipped, mut tests): (Vec<_>, Vec<_>) = which.partition(|word| word.starts_with('-'));
    if tests.is_empty() {
        tests = TESTS.into();
    }
    let datapaths = if all_datapaths { "all" } else { "auto" };
    let limit = Duration::from_secs(90 * 60);
    let plan = Plan { datapaths, tests, skipped, limit };
    // One machine after the other: on an overloaded machine, long tests fail.
    kernels.iter().try_for_each(|&kernel| run(&tools, &[kernel], &plan))
}

/// Runs a few tests on the kernels of a CI run, or reports why that is not possible.
pub(crate) fn ci_test() -> Result<()> {
    match make_ready(&Kernel::IN_CI) {
        Ok(tools) => {
            let limit = Duration::from_secs(10 * 60);
            let (tests, skipped) = (CI_TESTS.into(), Vec::new());
            run(&tools, &Kernel::IN_CI, &Plan { datapaths: "auto", tests, skipped, limit })
        }
        Err(why) => skip("tests on other kernels", &format!("{why:#}")),
    }
}

/// Installs the kernels of a CI run and the virtual machine programs.
pub(crate) fn set_up() -> Result<()> {
    match make_ready(&Kernel::IN_CI) {
        Ok(_) => Ok(()),
        Err(why) => skip("the set-up of other kernels", &format!("{why:#}")),
    }
}

/// Downloads the kernels and the virtual machine programs.
pub(crate) fn make_ready(kernels: &[Kernel]) -> Result<Tools> {
    // The machines run the balance that was built for this architecture.
    ensure!(env::consts::ARCH == "x86_64", "kernels are available for x86_64 only");
    let tools = Tools::fetch().context("the programs for virtual machines")?;
    for &kernel in kernels {
        let tree =
            download::fetch(kernel).with_context(|| format!("Linux {}", kernel.version()))?;
        eprintln!("test kernel {}: {}", kernel.version(), tree.release);
    }
    Ok(tools)
}

/// Runs the plan on all these kernels concurrently.
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
    let started = Instant::now();
    let on = || format!("Linux {}", kernel.version());
    let tree = download::fetched(kernel).context("the kernel has been removed").with_context(on)?;
    let dir = download::directory(kernel).join("machine");
    let image = image::make(tools, &dir, &tree, programs).with_context(on)?;
    let machine = Machine {
        image: &image,
        name: kernel.version(),
        memory_mib: MEMORY_MIB,
        options: format!("-- {}", plan.arguments().join(" ")),
        limit: plan.limit,
    };
    let mut tally = Tally::default();
    let outcome = boot::run(tools, &machine, |line| tally.count(line));
    outcome.with_context(|| format!("{}: {tally}", on()))?;
    ensure!(tally.has_passed(), "{}: no test has passed: {tally}", on());
    eprintln!("{}: {tally}; {} s", on(), started.elapsed().as_secs());
    let (chosen, expected) = (tally.chosen_datapath().unwrap_or("no datapath"), kernel.datapath());
    ensure!(chosen == expected, "{}: auto chooses {chosen}, not {expected}", on());
    Ok(())
}

impl Plan<'_> {
    /// Returns the names of the test executables, each once.
    fn executables(&self) -> Vec<&str> {
        let tests = self.tests.iter();
        let names: BTreeSet<&str> =
            tests.map(|test| test.split_once('/').map_or(*test, |(name, _)| name)).collect();
        names.into_iter().collect()
    }

    /// Returns the arguments of the machine's init process.
    fn arguments(&self) -> Vec<String> {
        let words = iter::once(&self.datapaths).chain(&self.tests).chain(&self.skipped);
        words.map(|&word| word.to_owned()).collect()
    }
}
