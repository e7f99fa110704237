//! `run`: builds and executes balance.
//!
//! Invariant: balance replaces the xtask process, so signals and the exit status pass through.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Result, anyhow};

use crate::{build, exec, root::Root, setup, workspace};

/// Build balance and run it, with sudo if necessary, as the datapaths in the kernel need root
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments of balance
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { tests: false })?;
    build::program()?;
    let root = Root::find();
    if root == Root::Never {
        eprintln!("neither root nor sudo: balance runs without the datapaths in the kernel");
    }
    let mut balance = root.command(workspace::program());
    balance.args(&options.args);
    let error = balance.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&balance))))
}
