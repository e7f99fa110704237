//! A harness of this workspace that a task builds and becomes.
//!
//! Invariants: the harness alone knows its options; no process of ours stays between the caller and
//! it, so that signals and the exit status pass.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::PathBuf,
};

use anyhow::{Result, anyhow};

use crate::{build, exec, root::Root, setup, test_programs, workspace};

/// What is given to a harness as it is.
#[derive(clap::Args)]
pub(crate) struct Passed {
    /// What to give to the harness.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

impl Passed {
    /// Whether only its options are asked for, so that nothing has to be ready.
    pub(crate) fn is_question(&self) -> bool {
        self.args.iter().any(|arg| ["-h", "--help"].iter().any(|help| arg == help))
    }

    /// Builds the harness of that name in a package; returns where it is.
    pub(crate) fn build(package: &str, name: &str) -> Result<PathBuf> {
        let build = ["build", "--release", "--package", package, "--bin", name];
        exec::exec(workspace::cargo().args(build))?;
        Ok(workspace::program().with_file_name(name))
    }

    /// Builds the program and a harness of the package `tests`, installs what that needs, and becomes it.
    pub(crate) fn drive_program(&self, name: &str, without_root: &str) -> Result<()> {
        let harness = Self::build("tests", name)?;
        if !self.is_question() {
            test_programs::install()?;
            setup::run(&setup::Options { tests: false })?;
            build::program()?;
        }
        self.hand_over(harness, &[], without_root)
    }

    /// Becomes the harness, with arguments of ours before those that are passed; `without_root` says
    /// what it cannot do where neither root nor sudo is to be had.
    pub(crate) fn hand_over(
        &self,
        harness: PathBuf,
        ours: &[&OsStr],
        without_root: &str,
    ) -> Result<()> {
        let root = if self.is_question() { Root::Never } else { Root::find() };
        if root == Root::Never && !self.is_question() {
            eprintln!("neither root nor sudo: {without_root}");
        }
        let mut command = root.command(harness);
        command.args(ours).args(&self.args);
        let error = command.exec();
        Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&command))))
    }
}
