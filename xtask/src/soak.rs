//! `soak`: builds balance and the soak harness, and executes the harness.
//!
//! Invariant: `Passed::drive_program` installs what the harness needs, and no more of what the tests do.

use anyhow::Result;

use crate::harness::Passed;

/// Random scenarios of connections, broken off in all ways, on each datapath; see `--help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    passed: Passed,
}

/// Runs the task.
pub(crate) fn run(Options { passed }: &Options) -> Result<()> {
    passed.drive_program("soak", "the datapaths in the kernel are left out")
}
