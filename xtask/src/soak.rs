//! `soak`: builds balance and the soak harness, and executes the harness.
//!
//! Invariant: `HarnessArgs::drive_program` installs what the harness needs, and nothing else that
//! only the tests need.

use anyhow::Result;

use crate::harness::HarnessArgs;

/// Random scenarios of connections, broken off in all ways, on each datapath; see `--help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    harness_args: HarnessArgs,
}

/// Runs the task.
pub(crate) fn run(Options { harness_args }: &Options) -> Result<()> {
    harness_args.drive_program("soak", "the datapaths in the kernel are left out")
}
