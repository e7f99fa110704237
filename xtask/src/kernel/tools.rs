//! The programs that make and run virtual machines, whatever of them this system has.
//!
//! Invariant: a program runs with the libraries and the dynamic loader that were fetched with it, so
//! that neither needs anything of this system's but its kernel.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    packages::{self, Packages},
    workspace,
};

/// One release for all systems: what a machine does is the same everywhere then.
const SUITES: [&str; 1] = ["trixie"];

/// The emulator, depmod(8) and modprobe(8), and what packs and unpacks.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "kmod", "cpio", "xz-utils"];

/// The dynamic loader, by the name that programs have for it.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where programs are.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];

/// The emulator's firmware: its own and the BIOS.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// What was fetched.
pub(super) struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The programs, fetched unless they are there.
    pub(super) fn fetch() -> Result<Self> {
        let place = workspace::kernels().join("tools");
        let root = match packages::unpacked(&place) {
            Some(root) => root,
            None => Packages::resolve(&place, &SUITES, &PACKAGES)?.unpack()?,
        };
        Ok(Self { root })
    }

    /// One of the programs.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        let mut files = PROGRAMS.iter().map(|folder| self.root.join(folder).join(program));
        let file = files.find(|file| file.exists());
        let file = file.with_context(|| format!("{} has no {program}", self.root.display()))?;
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--inhibit-cache").arg("--library-path").arg(self.root.join(LIBRARIES));
        command.arg(file);
        Ok(command)
    }

    /// The emulator.
    pub(super) fn qemu(&self) -> Result<Command> {
        let mut qemu = self.command("qemu-system-x86_64")?;
        qemu.env("QEMU_MODULE_DIR", self.root.join(LIBRARIES).join("qemu"));
        for folder in FIRMWARE {
            qemu.arg("-L").arg(self.root.join(folder));
        }
        Ok(qemu)
    }
}
