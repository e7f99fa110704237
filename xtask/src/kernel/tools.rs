//! The programs that make and run virtual machines, independent of this system's packages.
//!
//! Invariant: a program runs with the libraries and the dynamic loader that were downloaded with
//! it, so the programs need only the kernel of this system.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    packages::{self, Packages},
    workspace,
};

/// One Debian release for all systems, so that a machine behaves the same everywhere.
const SUITES: [&str; 1] = ["trixie"];

/// The emulator, depmod(8), modprobe(8) and the archive programs.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "kmod", "cpio", "xz-utils"];

/// The dynamic loader, by its name in executables.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The directories of programs.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];

/// The firmware directories of the emulator: its own and the BIOS.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The downloaded programs.
pub(crate) struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Downloads the programs unless they are stored already.
    pub(super) fn fetch() -> Result<Self> {
        let directory = workspace::kernels().join("tools");
        let root = match packages::unpacked(&directory) {
            Some(root) => root,
            None => Packages::resolve(&directory, &SUITES, &PACKAGES)?.unpack()?,
        };
        Ok(Self { root })
    }

    /// Returns a command for one of the programs.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut files = PROGRAMS.iter().map(|folder| self.root.join(folder).join(program));
        let file = files.find(|file| file.exists());
        let file = file.with_context(|| format!("{} has no {program}", self.root.display()))?;
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--inhibit-cache").arg("--library-path").arg(self.root.join(LIBRARIES));
        command.arg(file);
        Ok(command)
    }

    /// Returns a command for the emulator.
    pub(crate) fn qemu(&self) -> Result<Command> {
        let mut qemu = self.command("qemu-system-x86_64")?;
        qemu.env("QEMU_MODULE_DIR", self.root.join(LIBRARIES).join("qemu"));
        for folder in FIRMWARE {
            qemu.arg("-L").arg(self.root.join(folder));
        }
        Ok(qemu)
    }
}
