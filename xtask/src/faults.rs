//! `faults`: builds balance and the harness of random lives, and becomes that.
//!
//! Invariant: as with `bench`, the harness alone knows its options.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Result, anyhow};

use crate::{
    build,
    exec::{self, exec},
    root::Root,
    setup, workspace,
};

/// Random lives of connections, broken off in all ways, through each datapath; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What to give to the harness.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    let is_question =
        options.args.iter().any(|arg| ["-h", "--help"].iter().any(|help| arg == help));
    if !is_question {
        setup::run(&setup::Options { tests: true })?;
        build::program()?;
    }
    exec(workspace::cargo().args(["build", "--release", "--package", "tests", "--bin", "faults"]))?;
    let root = if is_question { Root::Never } else { Root::find() };
    if root == Root::Never && !is_question {
        eprintln!("neither root nor sudo: the datapaths in the kernel are left out");
    }
    let mut faults = root.command(workspace::program().with_file_name("faults"));
    faults.args(&options.args);
    let error = faults.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&faults))))
}
