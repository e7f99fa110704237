//! The Debian package under test.

use std::{env, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{TIMEOUT, run, skip};

/// Where it is: `BALANCE_DEB`; nothing, after saying so, if there is none.
pub fn package() -> Option<PathBuf> {
    let package = env::var_os("BALANCE_DEB").map(PathBuf::from);
    if package.is_none() {
        skip("BALANCE_DEB is not set: run cargo xtask test");
    }
    package
}

/// Its files, unpacked.
pub fn unpacked() -> Option<TempDir> {
    let package = package()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut dpkg = Command::new("dpkg-deb");
    let outcome = run(dpkg.arg("--extract").arg(package).arg(folder.path()), TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
    Some(folder)
}
