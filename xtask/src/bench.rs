//! `bench`: builds balance and its harness, installs what it asks for, and becomes the harness.
//!
//! Invariant: the harness alone knows its options and what they ask for; no process of
//! ours stays between the caller and it, so that signals and the exit status pass.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    apt, build,
    exec::{self, exec, output},
    root::Root,
    setup, workspace,
};

/// Measure balance beside its peers: haproxy, nginx and pen; `--help` tells more.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What to give to the harness: scenarios and options.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    exec(workspace::cargo().args(["build", "--release", "--package", "bench"]))?;
    let harness = workspace::program().with_file_name("bench");
    let is_question =
        options.args.iter().any(|arg| ["-h", "--help"].iter().any(|help| arg == help));
    if !is_question {
        let mut question = Command::new(&harness);
        let missing = output(question.arg("--missing-packages").args(&options.args))?;
        let missing: Vec<&str> = missing.lines().collect();
        if !missing.is_empty()
            && let Err(error) = apt::install(&missing, "").context("cannot install what is missing")
        {
            eprintln!("{error:#}: what needs it is left out");
        }
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
    }
    let root = if is_question { Root::Never } else { Root::find() };
    if root == Root::Never && !is_question {
        eprintln!("neither root nor sudo: the kernel datapath cannot be measured");
    }
    let mut bench = root.command(&harness);
    bench.arg("--balance").arg(workspace::program()).args(&options.args);
    let error = bench.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&bench))))
}
