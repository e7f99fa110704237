//! A minimal Debian system into which the tests install the package. debootstrap makes it once.
//!
//! Invariants: the system has the release of this machine, because the program needs the libraries
//! of the machine that built it. An existing archive is complete.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec::{exec, output},
    root::Root,
    workspace,
};

/// Makes the archive unless it exists. Returns `None` without root, which debootstrap needs.
pub(crate) fn make() -> Result<Option<PathBuf>> {
    let release = release()?;
    let archive = workspace::base_system(&release);
    if archive.exists() {
        return Ok(Some(archive));
    }
    let root = Root::find();
    if root == Root::Never {
        return Ok(None);
    }
    if let Some(dir) = archive.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut make = root.command("sh");
    make.arg(workspace::root().join("xtask/base-system.sh")).arg(&archive).arg(&release);
    // Without a mirror, debootstrap uses its default.
    make.args(mirror(&release));
    exec(&mut make)?;
    Ok(Some(archive))
}

/// Returns the codename of this machine's release.
fn release() -> Result<String> {
    let mut shell = Command::new("sh");
    let name = output(shell.args(["-c", ". /etc/os-release && echo \"$VERSION_CODENAME\""]))?;
    let name = name.trim();
    ensure!(!name.is_empty(), "/etc/os-release names no release");
    Ok(name.to_owned())
}

/// Returns the mirror from which apt gets this release.
fn mirror(release: &str) -> Option<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)"]);
    apt.args(["Created-By: Packages", "Component: main", &format!("Suite: {release}")]);
    let mirrors = output(&mut apt).ok()?;
    mirrors.lines().next().map(str::to_owned)
}
