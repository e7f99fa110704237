//! Downloads kernels of other Debian releases.
//!
//! Invariant: a stored kernel has the requested version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::Kernel;
use crate::{
    packages::{self, Packages},
    workspace,
};

/// A package that depends on the newest kernel of a suite for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";

/// The unpacked packages of a kernel.
pub(crate) struct Tree {
    root: PathBuf,
    /// The release that uname(1) prints.
    pub(crate) release: String,
}

impl Tree {
    /// Returns the kernel image, whose path differs between Debian releases.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        let modules = self.modules();
        let candidates = [
            self.root.join("boot").join(format!("vmlinuz-{}", self.release)),
            modules.join("vmlinuz"),
        ];
        let found = candidates.into_iter().find(|path| path.exists());
        found.with_context(|| format!("{} has no vmlinuz", self.root.display()))
    }

    /// Returns the directory of the modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// Returns the root directory for depmod(8) and modprobe(8).
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the kernel that was unpacked in a directory.
    fn at(root: PathBuf) -> Result<Self> {
        let modules = root.join("lib/modules");
        let mut entries = fs::read_dir(&modules).with_context(|| modules.display().to_string())?;
        let entry = entries.next().with_context(|| format!("{} is empty", modules.display()))??;
        let release = entry.file_name().to_string_lossy().into_owned();
        Ok(Self { root, release })
    }
}

/// Returns the kernel if it has been downloaded.
pub(crate) fn fetched(kernel: Kernel) -> Option<Tree> {
    Tree::at(packages::unpacked(&directory(kernel))?).ok()
}

/// Downloads the newest kernel with this version, unless it is stored already.
pub(super) fn fetch(kernel: Kernel) -> Result<Tree> {
    if let Some(tree) = fetched(kernel) {
        return Ok(tree);
    }
    let mut packages = Packages::resolve(&directory(kernel), kernel.suites(), &[NEWEST])?;
    let version = packages.version();
    let begins = [".", "-"].map(|end| format!("{}{end}", kernel.version()));
    ensure!(
        begins.iter().any(|begin| version.starts_with(begin)),
        "the newest kernel of {} is {version}",
        kernel.suites().join(" and ")
    );
    packages.retain(is_kernel);
    Tree::at(packages.unpack()?)
}

/// Returns the directory in which a kernel is stored.
pub(super) fn directory(kernel: Kernel) -> PathBuf {
    workspace::kernels().join(kernel.version())
}

/// Returns true if a package contains the kernel or a part of it: some releases split the kernel.
fn is_kernel(name: &str) -> bool {
    let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
    name != NEWEST
        && name.ends_with("-cloud-amd64")
        && parts.iter().any(|part| name.starts_with(part))
}
