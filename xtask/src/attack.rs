//! `attack`: builds balance and the harness of attacks, and becomes that.
//!
//! Invariant: `Passed::drive_program` installs what the harness needs, and no more of what the tests do.

use anyhow::Result;

use crate::harness::Passed;

/// Attacks on spliced connections by a host that sees no packet; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    passed: Passed,
}

/// Runs the task.
pub(crate) fn run(Options { passed }: &Options) -> Result<()> {
    passed.drive_program("attack", "attacks need raw sockets")
}
