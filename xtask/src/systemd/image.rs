//! The boot image of a machine: a kernel, and the system of a Debian release in an initramfs.
//!
//! Invariant: the system is Debian's, unchanged but for added files: kernel modules, the packages,
//! the test program and its unit.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::packages::Packages;
use crate::{
    executables,
    kernel::{
        download::Tree,
        image::{Image, copy, pack},
        modules,
        tools::Tools,
    },
    workspace,
};

/// The test program.
const GUEST: &str = "systemd_guest";

/// Moves the system away from the root of the initramfs, which the sandboxes of services cannot
/// replace, and starts the service manager.
const INIT: &str = "#!/bin/sh
mount --bind / /mnt && cd /mnt && mount --move . / && exec chroot . /sbin/init
";

/// Runs the test program, and switches the machine off when the program ends.
const UNIT: &str = "[Unit]
Description=Goes through the life of the package
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
Environment=LC_ALL=C.UTF-8 TERM=dumb HOME=/root DEBIAN_FRONTEND=noninteractive
StandardOutput=file:/dev/ttyS0
StandardError=inherit
";

const UNIT_FILE: &str = "etc/systemd/system/systemd-guest.service";
const WANTS: &str = "etc/systemd/system/multi-user.target.wants";

/// Makes the image with the archive of a system.
pub(super) fn make(
    tools: &Tools,
    codename: &str,
    tree: &Tree,
    system: &Path,
    packages: &Packages,
    steps: &[String],
) -> Result<Image> {
    let dir = workspace::systemd().join(codename);
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    for folder in [WANTS, "packages", "usr/local/bin"].map(|folder| root.join(folder)) {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    modules::install(tools, tree, &root)?;
    copy(&packages.package, &root.join("packages/balance.deb"))?;
    copy(&packages.next, &root.join("packages/balance-next.deb"))?;
    let guest = executables::build_program(GUEST)?;
    copy(&guest, &root.join("usr/local/bin").join(GUEST))?;

    let init = root.join("init");
    write(&init, INIT)?;
    fs::set_permissions(&init, Permissions::from_mode(0o755))?;
    let start = format!("ExecStart=/usr/local/bin/{GUEST} {}\n", steps.join(" "));
    let unit = root.join(UNIT_FILE);
    write(&unit, &format!("{UNIT}{start}"))?;
    let name = unit.file_name().context("a unit without a name")?;
    symlink(Path::new("..").join(name), root.join(WANTS).join(name))?;

    let added = dir.join("added");
    pack(tools, &root, &added)?;
    let initramfs = dir.join("initramfs");
    join(&[system, &added], &initramfs)?;
    Ok(Image { kernel: tree.kernel()?, initramfs })
}

/// Writes one initramfs of several archives. The kernel unpacks them in their order.
fn join(archives: &[&Path], initramfs: &PathBuf) -> Result<()> {
    let mut joined = File::create(initramfs).with_context(|| initramfs.display().to_string())?;
    for archive in archives {
        let copied = File::open(archive).and_then(|mut from| io::copy(&mut from, &mut joined));
        copied.with_context(|| archive.display().to_string())?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}
