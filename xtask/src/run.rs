//! `run`: builds balance and becomes it.
//!
//! Invariant: no process of ours stays between the caller and balance, so that signals and the
//! exit status pass.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Result, anyhow};

use crate::{build, exec, root::Root, setup, workspace};

/// Build balance and run it, through sudo where needed: its kernel datapath wants root.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to give to balance.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { tests: false })?;
    build::program()?;
    let root = Root::find();
    if root == Root::Never {
        eprintln!("neither root nor sudo: balance runs without its kernel datapath");
    }
    let mut balance = root.command(workspace::program());
    balance.args(&options.args);
    let error = balance.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&balance))))
}
