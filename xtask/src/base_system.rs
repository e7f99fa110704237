//! Minimal Debian systems that debootstrap makes once: one into which the tests install the
//! package, and one for each release whose service manager runs in a virtual machine.
//!
//! Invariants: the first has the release of this machine, because the program needs the libraries
//! of the machine that built it. An existing archive is complete.

use std::{
    ffi::OsString,
    fs, iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec::{exec, output},
    kernel::tools::Tools,
    packages,
    root::Root,
    workspace,
};

/// A dependency of the package; every system has the other dependencies.
const PACKAGES: &str = "adduser";

/// The service manager, the bus on which a service asks it for its jobs, and modprobe(8), which the
/// kernel runs.
const BOOTABLE_PACKAGES: &str = "adduser,systemd-sysv,dbus,kmod";

/// Makes the archive unless it exists. Returns `None` without root, which debootstrap needs.
pub(crate) fn make() -> Result<Option<PathBuf>> {
    let release = release()?;
    let archive = workspace::base_system(&format!("{release}.tar"));
    if archive.exists() {
        return Ok(Some(archive));
    }
    let root = Root::find();
    if root == Root::Never {
        return Ok(None);
    }
    // Without a mirror, debootstrap uses its default.
    let mirror = mirror(&release).unwrap_or_default();
    bootstrap(root, &archive, &release, PACKAGES, &mirror, &[])?;
    Ok(Some(archive))
}

/// Makes the initramfs of a release with its service manager, unless the file exists.
///
/// # Errors
///
/// This process cannot become root, which debootstrap needs.
pub(crate) fn make_bootable(release: &str, tools: &Tools) -> Result<PathBuf> {
    let archive = workspace::base_system(&format!("{release}-systemd-dbus.cpio"));
    if archive.exists() {
        return Ok(archive);
    }
    let root = Root::find();
    ensure!(root != Root::Never, "debootstrap needs root");
    let cpio = tools.command("cpio")?;
    let cpio: Vec<OsString> =
        iter::once(cpio.get_program()).chain(cpio.get_args()).map(OsString::from).collect();
    let mirror = packages::mirror(release)?;
    bootstrap(root, &archive, release, BOOTABLE_PACKAGES, &mirror, &cpio)?;
    Ok(archive)
}

fn bootstrap(
    root: Root,
    archive: &Path,
    release: &str,
    packages: &str,
    mirror: &str,
    cpio: &[OsString],
) -> Result<()> {
    if let Some(dir) = archive.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut make = root.command("sh");
    make.arg(workspace::root().join("xtask/base-system.sh")).arg(archive);
    exec(make.args([release, packages, mirror]).args(cpio))
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
