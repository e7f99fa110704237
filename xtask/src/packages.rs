//! Packages of a Debian release, downloaded by apt and unpacked into a directory of their own.
//!
//! Invariants: apt verifies the downloads with Debian's keys. The packages of this system are
//! neither used nor changed. A directory with the completion mark is complete and is used until it
//! is removed.

mod apt;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use self::apt::Apt;
pub(crate) use self::apt::mirror;
use crate::exec::exec;

/// Directories that link to the same name in `usr`, as on every system since Debian 12.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The completion mark: a file with the version of the first requested package.
const MARK: &str = "version";

/// A package with the version that apt has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Packages with all their dependencies, before the download.
pub(crate) struct Packages {
    directory: PathBuf,
    apt: Apt,
    /// Includes the requested packages.
    resolved: Vec<Package>,
    version: String,
}

/// Returns the root of the packages in this directory if they have been unpacked.
pub(crate) fn unpacked(directory: &Path) -> Option<PathBuf> {
    directory.join(MARK).exists().then(|| root(directory))
}

impl Packages {
    /// Resolves packages and their dependencies to the newest version in any of the suites. Clears
    /// the directory for the unpacked packages.
    pub(crate) fn resolve(directory: &Path, suites: &[&str], names: &[&str]) -> Result<Self> {
        let (first, state) = (names.first().context("no package")?, directory.join("apt"));
        let _ = fs::remove_dir_all(directory);
        let apt = Apt::new(state, suites)?;
        let resolved = apt.resolve(names)?;
        let version = resolved.iter().find(|package| package.name == *first);
        let version = version.with_context(|| format!("apt has no version of {first}"))?;
        Ok(Self {
            directory: directory.to_owned(),
            apt,
            version: version.version.clone(),
            resolved,
        })
    }

    /// Returns the version of the first requested package.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Keeps only the packages whose name is wanted.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.resolved.retain(|package| is_wanted(&package.name));
    }

    /// Downloads and unpacks the packages, and returns their root.
    pub(crate) fn unpack(self) -> Result<PathBuf> {
        ensure!(!self.resolved.is_empty(), "no package is left of {}", self.version);
        let root = root(&self.directory);
        for name in MERGED {
            let folder = root.join("usr").join(name);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let link = root.join(name);
            symlink(Path::new("usr").join(name), &link)
                .with_context(|| link.display().to_string())?;
        }
        let archives = self.directory.join("archives");
        fs::create_dir_all(&archives).with_context(|| archives.display().to_string())?;
        self.apt.download(&self.resolved, &archives)?;
        // tar follows the links. Owners and set-user-ID bits are dropped, because no program here
        // needs them.
        let mut unpack = Command::new("sh");
        unpack.args([
            "-ec",
            "for archive in \"$1\"/*.deb; do dpkg-deb --fsys-tarfile \"$archive\" | \
             tar -xC \"$2\" --keep-directory-symlink --no-same-owner --no-same-permissions; done",
        ]);
        exec(unpack.arg("sh").arg(&archives).arg(&root))?;
        for done in [&archives, self.apt.state()] {
            fs::remove_dir_all(done).with_context(|| done.display().to_string())?;
        }
        // Written last, because the mark says that the directory is complete.
        let mark = self.directory.join(MARK);
        fs::write(&mark, self.version).with_context(|| mark.display().to_string())?;
        Ok(root)
    }
}

fn root(directory: &Path) -> PathBuf {
    directory.join("tree")
}
