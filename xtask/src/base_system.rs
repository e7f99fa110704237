//! A small Debian that the tests install the package in: made once, by debootstrap.
//!
//! Invariants: it is of the release that we build on, whose libraries the program needs, and an
//! archive that is there is complete.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec::{exec, output},
    root::Root,
    workspace,
};

/// Makes sure that it is there; nothing without root, who alone can make and use it.
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
    // Without one debootstrap knows where.
    make.args(mirror(&release));
    exec(&mut make)?;
    Ok(Some(archive))
}

/// The codename of the system that we are on.
fn release() -> Result<String> {
    let mut shell = Command::new("sh");
    let name = output(shell.args(["-c", ". /etc/os-release && echo \"$VERSION_CODENAME\""]))?;
    let name = name.trim();
    ensure!(!name.is_empty(), "/etc/os-release names no release");
    Ok(name.to_owned())
}

/// Where apt has that release from.
fn mirror(release: &str) -> Option<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)"]);
    apt.args(["Created-By: Packages", "Component: main", &format!("Suite: {release}")]);
    let mirrors = output(&mut apt).ok()?;
    mirrors.lines().next().map(str::to_owned)
}
