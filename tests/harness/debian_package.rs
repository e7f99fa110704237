//! The Debian package under test.
//!
//! Invariant: the package is the one that `BALANCE_DEB` names, never an installed one.

use std::{env, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{TIMEOUT, run, skip};

/// The path of the package (`BALANCE_DEB`). Prints the reason and returns `None` if the variable is
/// not set.
pub fn package() -> Option<PathBuf> {
    let package = env::var_os("BALANCE_DEB").map(PathBuf::from);
    if package.is_none() {
        skip("BALANCE_DEB is not set: run cargo xtask test");
    }
    package
}

/// Unpacks the files of the package into a temporary folder.
pub fn unpacked() -> Option<TempDir> {
    let package = package()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut dpkg = Command::new("dpkg-deb");
    let outcome = run(dpkg.arg("--extract").arg(package).arg(folder.path()), TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
    Some(folder)
}
