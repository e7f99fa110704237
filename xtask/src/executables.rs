//! The executables of the package `tests`, for those who run them otherwise than cargo does.
//!
//! Invariant: they are of the sources as they are now.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{exec, workspace};

/// What was built.
pub(crate) struct Programs {
    /// The first process of a machine that runs the tests.
    pub(crate) guest: PathBuf,
    /// Tests, with their names.
    pub(crate) tests: Vec<(String, PathBuf)>,
}

/// Builds tests, and the program that runs them in a machine of their own.
pub(crate) fn build(tests: &[&str]) -> Result<Programs> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--release", "--package", "tests"]);
    // Programs of the package come with its tests.
    cargo.args(["--message-format", "json-render-diagnostics"]);
    for test in tests {
        cargo.args(["--test", test]);
    }
    let line = exec::line(&cargo);
    eprintln!("+ {line}");
    let done = cargo.stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("cannot start `{line}`"))?;
    ensure!(done.status.success(), "`{line}` failed: {}", done.status);
    let said = String::from_utf8(done.stdout).context("cargo does not print text")?;
    let built: Vec<(String, PathBuf)> = said.lines().filter_map(executable).collect();
    let find = |name: &str| {
        let found = built.iter().find(|(built, _)| built == name);
        found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {name}"))
    };
    Ok(Programs {
        guest: find("guest")?,
        tests: tests
            .iter()
            .map(|&name| Ok((name.to_owned(), find(name)?)))
            .collect::<Result<_>>()?,
    })
}

/// What a message of cargo's says was built, if it is an executable.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}
