//! `bench`: builds balance and the benchmark, installs what the benchmark needs, and executes it.
//!
//! Invariant: only the benchmark interprets its options.

use std::{ffi::OsStr, process::Command};

use anyhow::{Context as _, Result};

use crate::{apt, build, exec::output, harness::HarnessArgs, setup, workspace};

/// Measure balance and other proxies: haproxy, nginx and pen; see `--help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    harness_args: HarnessArgs,
}

/// Runs the task.
pub(crate) fn run(Options { harness_args }: &Options) -> Result<()> {
    let harness = HarnessArgs::build("bench", "bench")?;
    if !harness_args.asks_for_help() {
        let mut query = Command::new(&harness);
        let missing = output(query.arg("--missing-packages").args(&harness_args.args))?;
        let missing: Vec<&str> = missing.lines().collect();
        if !missing.is_empty()
            && let Err(error) = apt::install(&missing, "").context("cannot install packages")
        {
            eprintln!("{error:#}: the proxies that need them are left out");
        }
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
    }
    let program = workspace::program();
    let ours = [OsStr::new("--balance"), program.as_os_str()];
    harness_args.execute(harness, &ours, "the datapaths in the kernel cannot be measured")
}
