//! The packages that a machine installs: the package under test, and the same with a higher
//! version.
//!
//! Invariant: the two differ only in the version of the package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{exec::exec, workspace};

/// What the higher version has at its end.
const SUFFIX: &str = "+next";

/// The paths of the packages.
pub(super) struct Packages {
    pub(super) package: PathBuf,
    pub(super) next: PathBuf,
}

impl Packages {
    /// Makes the package with the higher version.
    pub(super) fn new(package: PathBuf) -> Result<Self> {
        let next = workspace::systemd().join("balance-next.deb");
        let files = workspace::systemd().join("next");
        let _ = fs::remove_dir_all(&files);
        fs::create_dir_all(&files).with_context(|| files.display().to_string())?;
        exec(Command::new("dpkg-deb").arg("--raw-extract").args([&package, &files]))?;
        raise_version(&files.join("DEBIAN/control"))?;
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-Znone", "--build"]);
        exec(build.args([&files, &next]))?;
        Ok(Self { package, next })
    }
}

fn raise_version(control: &Path) -> Result<()> {
    let text = fs::read_to_string(control).with_context(|| control.display().to_string())?;
    let raised = with_higher_version(&text);
    ensure!(raised != text, "{} has no version", control.display());
    fs::write(control, raised).with_context(|| control.display().to_string())
}

fn with_higher_version(control: &str) -> String {
    let lines = control.lines().map(|line| match line.starts_with("Version: ") {
        true => format!("{line}{SUFFIX}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_changes() {
        let control = "Package: balance\nVersion: 1:0.1.0-1\nDepends: libc6\n";
        assert_eq!(
            with_higher_version(control),
            "Package: balance\nVersion: 1:0.1.0-1+next\nDepends: libc6\n"
        );
    }
}
