//! Runs random scenarios; `cargo xtask soak` builds the program and runs this harness.
//!
//! Invariant: the output of a failure has the command that repeats it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the terminal is the user interface: statistics on stdout, failures on stderr"
)]

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    kernel_works,
    soak::{Limit, Plan, Run, Statistics, Target},
};

/// Random scenarios of connections, broken off in all ways, on each datapath.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak", max_term_width = 100)]
struct Options {
    /// Total time in seconds, shared by the datapaths
    #[arg(long, value_name = "N", default_value = "100",
          value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Seed of all scenarios [default: a random one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Datapaths [default: all]: relay, sockmap, handover (from relay to sockmap), splice; between
    /// network namespaces splice-apart, splice-apart-v6, sockmap-apart-v6
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    datapath: Vec<Target>,

    /// Run only the scenario with this number
    #[arg(long, value_name = "NUMBER", requires = "seed")]
    only: Option<u64>,

    /// How often to run it, with --only
    #[arg(long, value_name = "N", default_value = "1", requires = "only")]
    times: u64,

    /// Run this many scenarios on each datapath, however long they take
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "only"])]
    scenarios: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let settings = match options.datapath.is_empty() {
        true => Target::ALL.map(|(_, target)| target).into(),
        false => options.datapath.clone(),
    };
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let time = Duration::from_secs(options.seconds) / settings.len() as u32;
    let limit = match (options.only, options.scenarios) {
        (Some(only), _) => Limit::Only(only, options.times),
        (None, Some(scenarios)) => Limit::Count(scenarios),
        (None, None) => Limit::Time(time),
    };
    if let Some(only) = options.only {
        println!("{}\n", Plan::new(seed, only));
    }
    for target in settings {
        if target.needs_kernel() && !kernel_works() {
            continue;
        }
        println!("{target}: seed {seed}");
        let shown = Shown::new(limit);
        let outcome = Run { target, seed, limit }.execute(&|statistics| shown.show(statistics));
        shown.bar.finish_and_clear();
        match outcome {
            Ok(Some(statistics)) => println!("{statistics}\nnothing was wrong\n"),
            Ok(None) => {}
            Err(failures) => {
                for failure in &failures {
                    eprintln!("{failure}\n");
                }
                eprintln!("{} failures", failures.len());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Progress of a run: a bar on a terminal, otherwise a line now and then.
struct Shown {
    bar: ProgressBar,
    counts_scenarios: bool,
    line: Option<Mutex<Instant>>,
}

impl Shown {
    fn new(limit: Limit) -> Self {
        let (steps, counts_scenarios) = match limit {
            Limit::Time(time) => (time.as_secs(), false),
            Limit::Count(scenarios) | Limit::Only(_, scenarios) => (scenarios, true),
        };
        let style = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {msg} ({eta})");
        let bar = ProgressBar::new(steps).with_style(style.expect("a template"));
        let line = (!stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        Self { bar, counts_scenarios, line }
    }

    fn show(&self, statistics: &Statistics) {
        let text =
            format!("{} scenarios, {} MB", statistics.scenarios, statistics.bytes / 1_000_000);
        self.bar.set_position(if self.counts_scenarios {
            statistics.scenarios
        } else {
            statistics.time.as_secs()
        });
        self.bar.set_message(text.clone());
        if let Some(line) = &self.line
            && let Ok(mut last) = line.lock()
            && last.elapsed() > Duration::from_secs(10)
        {
            *last = Instant::now();
            eprintln!("{:.0} s: {text}", statistics.time.as_secs_f64());
        }
    }
}
