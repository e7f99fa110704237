//! `faults`: builds balance and the harness of random lives, and becomes that.
//!
//! Invariant: `Passed::drive_program` installs what the harness needs, and no more of what the tests do.

use anyhow::Result;

use crate::harness::Passed;

/// Random lives of connections, broken off in all ways, through each datapath; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    passed: Passed,
}

/// Runs the task.
pub(crate) fn run(Options { passed }: &Options) -> Result<()> {
    passed.drive_program("faults", "the datapaths in the kernel are left out")
}
