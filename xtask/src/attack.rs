//! `attack`: builds balance and the attack harness, and executes the harness.
//!
//! Invariant: `HarnessArgs::drive_program` installs what the harness needs, and nothing else that
//! only the tests need.

use anyhow::Result;

use crate::harness::HarnessArgs;

/// Attacks on spliced connections by a host that sees no packet; see `--help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    harness_args: HarnessArgs,
}

/// Runs the task.
pub(crate) fn run(Options { harness_args }: &Options) -> Result<()> {
    harness_args.drive_program("attack", "attacks need raw sockets")
}
