//! Kernels of other releases of Debian than this system's.
//!
//! Invariant: a kernel that is there is of the version that was asked for.

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

/// Depends on the newest kernel of a suite that is made for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";

/// A kernel as its packages unpack it.
pub(super) struct Tree {
    root: PathBuf,
    /// As uname(1) tells it.
    pub(super) release: String,
}

impl Tree {
    /// The kernel itself, which has moved between the releases of Debian.
    pub(super) fn kernel(&self) -> Result<PathBuf> {
        let modules = self.modules();
        let places = [
            self.root.join("boot").join(format!("vmlinuz-{}", self.release)),
            modules.join("vmlinuz"),
        ];
        let found = places.into_iter().find(|place| place.exists());
        found.with_context(|| format!("{} has no vmlinuz", self.root.display()))
    }

    /// Where its modules are.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// What depmod(8) and modprobe(8) take for `/`.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel that was unpacked there.
    fn at(root: PathBuf) -> Result<Self> {
        let modules = root.join("lib/modules");
        let mut entries = fs::read_dir(&modules).with_context(|| modules.display().to_string())?;
        let entry = entries.next().with_context(|| format!("{} is empty", modules.display()))??;
        let release = entry.file_name().to_string_lossy().into_owned();
        Ok(Self { root, release })
    }
}

/// The kernel, if it has been fetched.
pub(super) fn fetched(kernel: Kernel) -> Option<Tree> {
    Tree::at(packages::unpacked(&place(kernel))?).ok()
}

/// Gets the newest kernel that begins with that version, unless one is there.
pub(super) fn fetch(kernel: Kernel) -> Result<Tree> {
    if let Some(tree) = fetched(kernel) {
        return Ok(tree);
    }
    let mut packages = Packages::resolve(&place(kernel), kernel.suites(), &[NEWEST])?;
    let version = packages.version();
    let begins = [".", "-"].map(|end| format!("{}{end}", kernel.version()));
    ensure!(
        begins.iter().any(|begin| version.starts_with(begin)),
        "{} has the kernel {version} now",
        kernel.suites().join(" and ")
    );
    packages.retain(is_kernel);
    Tree::at(packages.unpack()?)
}

/// Where a kernel is kept from one run to the next.
pub(super) fn place(kernel: Kernel) -> PathBuf {
    workspace::kernels().join(kernel.version())
}

/// Whether a package has the kernel, or a part of it: some releases split it.
fn is_kernel(name: &str) -> bool {
    let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
    name != NEWEST
        && name.ends_with("-cloud-amd64")
        && parts.iter().any(|part| name.starts_with(part))
}
