//! `bench`: builds balance and its harness, installs what it asks for, and becomes the harness.
//!
//! Invariant: the harness alone knows what its options ask for.

use std::{ffi::OsStr, process::Command};

use anyhow::{Context as _, Result};

use crate::{apt, build, exec::output, harness::Passed, setup, workspace};

/// Measure balance beside its peers: haproxy, nginx and pen; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    passed: Passed,
}

/// Runs the task.
pub(crate) fn run(Options { passed }: &Options) -> Result<()> {
    let harness = Passed::build("bench", "bench")?;
    if !passed.is_question() {
        let mut question = Command::new(&harness);
        let missing = output(question.arg("--missing-packages").args(&passed.args))?;
        let missing: Vec<&str> = missing.lines().collect();
        if !missing.is_empty()
            && let Err(error) = apt::install(&missing, "").context("cannot install what is missing")
        {
            eprintln!("{error:#}: what needs it is left out");
        }
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
    }
    let program = workspace::program();
    let ours = [OsStr::new("--balance"), program.as_os_str()];
    passed.hand_over(harness, &ours, "the kernel datapath cannot be measured")
}
