//! Packages of a release of Debian, fetched by apt and unpacked into a folder of their own.
//!
//! Invariants: apt verifies what it fetches with Debian's keys; the packages of this system are
//! neither used nor changed; a folder that is marked as complete is complete, and stays in use until
//! it is removed.

mod apt;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use self::apt::Apt;
use crate::exec::exec;

/// Folders that are links to those of the same name in `usr`, as on every system since Debian 12.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The mark of a complete folder: a file with the version of the package that was asked for first.
const MARK: &str = "version";

/// A package as apt has resolved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Packages, with all that they depend on, before they are fetched.
pub(crate) struct Packages {
    place: PathBuf,
    apt: Apt,
    /// Includes the packages asked for.
    resolved: Vec<Package>,
    version: String,
}

/// The root of the packages unpacked in this place, if they have been unpacked.
pub(crate) fn unpacked(place: &Path) -> Option<PathBuf> {
    place.join(MARK).exists().then(|| root(place))
}

impl Packages {
    /// Resolves packages and their dependencies: the newest version in any of the suites. Clears the
    /// place that they are going to be unpacked in.
    pub(crate) fn resolve(place: &Path, suites: &[&str], names: &[&str]) -> Result<Self> {
        let (first, state) = (names.first().context("no package")?, place.join("apt"));
        let _ = fs::remove_dir_all(place);
        let apt = Apt::new(state, suites)?;
        let resolved = apt.resolve(names)?;
        let version = resolved.iter().find(|package| package.name == *first);
        let version = version.with_context(|| format!("apt has no version of {first}"))?;
        Ok(Self { place: place.to_owned(), apt, version: version.version.clone(), resolved })
    }

    /// The version of the package that was asked for first.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Keeps only the packages with such a name.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.resolved.retain(|package| is_wanted(&package.name));
    }

    /// Fetches and unpacks the packages; returns their root.
    pub(crate) fn unpack(self) -> Result<PathBuf> {
        ensure!(!self.resolved.is_empty(), "no package is left of {}", self.version);
        let root = root(&self.place);
        for name in MERGED {
            let folder = root.join("usr").join(name);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let link = root.join(name);
            symlink(Path::new("usr").join(name), &link)
                .with_context(|| link.display().to_string())?;
        }
        let archives = self.place.join("archives");
        fs::create_dir_all(&archives).with_context(|| archives.display().to_string())?;
        self.apt.download(&self.resolved, &archives)?;
        // By tar, which follows the links; without owners and set-user-ID bits, which no program
        // here needs.
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
        // Written last: the mark says that the folder is complete.
        let mark = self.place.join(MARK);
        fs::write(&mark, self.version).with_context(|| mark.display().to_string())?;
        Ok(root)
    }
}

fn root(place: &Path) -> PathBuf {
    place.join("tree")
}
