//! The test executables of the workspace, for tasks that run them without cargo.
//!
//! Invariants: the executables match the current sources. All tasks build the same selection of
//! packages and features, so no dependency is compiled twice.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{exec, workspace};

/// The features that the manual needs.
pub(crate) const FEATURES: [&str; 2] = ["--features", "balance-userspace/manual"];

/// An executable.
pub(crate) struct Executable {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The directory of its package.
    pub(crate) package: PathBuf,
    /// Whether the executable contains tests.
    pub(crate) is_test: bool,
}

impl Executable {
    /// Returns true if the tests drive the finished program.
    pub(crate) fn drives_program(&self) -> bool {
        self.package == workspace::tests()
    }

    /// Returns a command that runs the executable in the directory that cargo would use.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.package);
        command
    }
}

/// The executables for a virtual machine.
pub(crate) struct Programs {
    /// The init process of a machine that runs tests.
    pub(crate) guest: PathBuf,
    /// Test executables with their names.
    pub(crate) tests: Vec<(String, PathBuf)>,
}

/// Builds tests of the package `tests` and the init process of the virtual machine.
pub(crate) fn build(tests: &[&str]) -> Result<Programs> {
    let only: Vec<&str> = tests.iter().flat_map(|&test| ["--test", test]).collect();
    let built = cargo(&only)?;
    let find = |name: &str| {
        let found = built.iter().find(|built| built.name == name);
        found.map(|built| built.path.clone()).with_context(|| format!("cargo built no {name}"))
    };
    Ok(Programs {
        guest: find("guest")?,
        tests: tests
            .iter()
            .map(|&name| Ok((name.to_owned(), find(name)?)))
            .collect::<Result<_>>()?,
    })
}

/// Builds a program of the package `tests` and returns its path.
pub(crate) fn build_program(name: &str) -> Result<PathBuf> {
    let mut build = workspace::cargo();
    exec::exec(build.args(["build", "--workspace"]).args(FEATURES).args(["--bin", name]))?;
    Ok(workspace::target().join("debug").join(name))
}

/// Builds all tests of the workspace.
pub(crate) fn build_all() -> Result<Vec<Executable>> {
    let mut built = cargo(&[])?;
    built.retain(|built| built.is_test);
    Ok(built)
}

fn cargo(only: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--workspace"]).args(FEATURES).args(only);
    // Building the tests of a package also builds its programs.
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let line = exec::line(&cargo);
    eprintln!("+ {line}");
    let done = cargo.stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("cannot start `{line}`"))?;
    ensure!(done.status.success(), "`{line}` failed: {}", done.status);
    let messages = String::from_utf8(done.stdout).context("cargo does not print text")?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// Returns the executable that a cargo message reports as built, if any.
fn executable(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    Some(Executable {
        name: message["target"]["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        package: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
    })
}
