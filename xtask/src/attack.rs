//! `attack`: builds balance and the harness of attacks, and becomes that.
//!
//! Invariant: what it installs is what the harness needs, and no more of what the tests do.

use anyhow::Result;

use crate::{build, harness::Passed, peers, setup};

/// Attacks on spliced connections by a host that sees no packet; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[command(flatten)]
    passed: Passed,
}

/// Runs the task.
pub(crate) fn run(Options { passed }: &Options) -> Result<()> {
    let harness = Passed::build("tests", "attack")?;
    if !passed.is_question() {
        peers::install()?;
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
    }
    passed.hand_over(harness, &[], "attacks need raw sockets")
}
