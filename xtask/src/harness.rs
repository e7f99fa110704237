//! Building and executing a harness of this workspace.
//!
//! Invariants: only the harness interprets its options. The harness replaces the xtask process, so
//! signals and the exit status pass through.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::PathBuf,
};

use anyhow::{Result, anyhow};

use crate::{build, exec, root::Root, setup, test_programs, workspace};

/// The arguments that are passed to a harness.
#[derive(clap::Args)]
pub(crate) struct HarnessArgs {
    /// The arguments of the harness.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

impl HarnessArgs {
    /// Returns true if the arguments ask for help, which needs no set-up.
    pub(crate) fn asks_for_help(&self) -> bool {
        self.args.iter().any(|arg| ["-h", "--help"].iter().any(|help| arg == help))
    }

    /// Builds the harness with this name in a package and returns its path.
    pub(crate) fn build(package: &str, name: &str) -> Result<PathBuf> {
        let build = ["build", "--release", "--package", package, "--bin", name];
        exec::exec(workspace::cargo().args(build))?;
        Ok(workspace::program().with_file_name(name))
    }

    /// Builds the program and a harness of the package `tests`, installs what the harness needs,
    /// and executes the harness.
    pub(crate) fn drive_program(&self, name: &str, without_root: &str) -> Result<()> {
        let harness = Self::build("tests", name)?;
        if !self.asks_for_help() {
            test_programs::install()?;
            setup::run(&setup::Options { tests: false })?;
            build::program()?;
        }
        self.execute(harness, &[], without_root)
    }

    /// Executes the harness with the arguments `ours` before the passed ones. Without root and
    /// sudo, the warning `without_root` says what the harness cannot do.
    pub(crate) fn execute(
        &self,
        harness: PathBuf,
        ours: &[&OsStr],
        without_root: &str,
    ) -> Result<()> {
        let root = if self.asks_for_help() { Root::Never } else { Root::find() };
        if root == Root::Never && !self.asks_for_help() {
            eprintln!("neither root nor sudo: {without_root}");
        }
        let mut command = root.command(harness);
        command.args(ours).args(&self.args);
        let error = command.exec();
        Err(anyhow!(error).context(format!("cannot start `{}`", exec::line(&command))))
    }
}
