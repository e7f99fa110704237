//! Apt with its own sources, package lists and state.
//!
//! Invariant: only the mirror comes from this system's apt. Nothing of this system's apt changes,
//! and no package counts as installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Package;
use crate::exec::{exec, output};

/// Debian's keys, from the package debian-archive-keyring.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Gives all suites the same priority, so that apt prefers the newest version.
const PREFERENCES: &str = "Package: *\nPin: release *\nPin-Priority: 990\n";

/// Apt with the package lists of some suites.
pub(super) struct Apt {
    state: PathBuf,
}

impl Apt {
    /// Downloads the package lists of these suites into a directory.
    pub(super) fn new(state: PathBuf, suites: &[&str]) -> Result<Self> {
        ensure!(
            Path::new(KEYS).exists(),
            "{KEYS} is missing: the package debian-archive-keyring has it"
        );
        let mut sources = String::new();
        for suite in suites {
            let mirror = mirror(suite)?;
            sources += &format!("deb [arch=amd64 signed-by={KEYS}] {mirror} {suite} main\n");
        }
        for folder in ["lists/partial", "archives/partial", "preferences.d"] {
            let folder = state.join(folder);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        for (file, text) in
            [("status", ""), ("sources.list", &*sources), ("preferences", PREFERENCES)]
        {
            let file = state.join(file);
            fs::write(&file, text).with_context(|| file.display().to_string())?;
        }
        let apt = Self { state };
        exec(apt.command("apt-get").args(["--quiet", "--error-on=any", "update"]))?;
        Ok(apt)
    }

    /// Returns the directory of the state.
    pub(super) fn state(&self) -> &PathBuf {
        &self.state
    }

    /// Returns the packages with these names and all their dependencies.
    pub(super) fn resolve(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut install = self.command("apt-get");
        install.args(["--quiet", "--simulate", "--no-install-recommends", "install"]);
        Ok(packages(&output(install.args(names))?))
    }

    /// Downloads packages into a directory.
    pub(super) fn download(&self, packages: &[Package], folder: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.args(["--quiet", "download"]).current_dir(folder);
        exec(download.args(packages.iter().map(|it| format!("{}={}", it.name, it.version))))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, file: &str| format!("{name}={}", self.state.join(file).display());
        for option in [
            option("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=-".to_owned(),
            option("Dir::Etc::Preferences", "preferences"),
            option("Dir::Etc::PreferencesParts", "preferences.d"),
            option("Dir::State::Lists", "lists"),
            option("Dir::State::Status", "status"),
            option("Dir::Cache", ""),
            "APT::Architecture=amd64".to_owned(),
            // Only the package lists; as the calling user, who owns the directory.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// Parses a simulated installation: the lines `Inst NAME (VERSION ...`.
fn packages(simulation: &str) -> Vec<Package> {
    let installed = simulation.lines().filter_map(|line| line.strip_prefix("Inst "));
    let split = installed.filter_map(|line| {
        let (name, rest) = line.split_once(" (")?;
        let version = rest.split_once(' ')?.0;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    });
    split.collect()
}

/// Returns the mirror of this system's Debian packages or, for a security suite, of its security
/// updates.
pub(crate) fn mirror(suite: &str) -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]);
    apt.args(["Created-By: Packages", "Origin: Debian", "Component: main"]);
    let is_security = |release: &str| release.ends_with("-security");
    let targets = output(&mut apt)?;
    let mut mirrors = targets.lines().filter_map(|line| line.split_once(' '));
    let mirror = mirrors.find(|(release, _)| is_security(release) == is_security(suite));
    let (_, mirror) = mirror.with_context(|| format!("apt has no source for {suite}"))?;
    Ok(mirror.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_installation_names_packages_and_versions() {
        let simulation = "\
The following NEW packages will be installed:
  libaio1 qemu-system-x86
Inst libaio1 (0.3.113-4 Debian:12.15/oldstable [amd64])
Inst qemu-system-x86 (1:10.0.13+ds-0+deb13u1 Debian:13.3/stable, Debian-Security:13 [amd64]) []
Conf libaio1 (0.3.113-4 Debian:12.15/oldstable [amd64])
";
        let names = packages(simulation).into_iter().map(|it| (it.name, it.version));
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                ("libaio1".to_owned(), "0.3.113-4".to_owned()),
                ("qemu-system-x86".to_owned(), "1:10.0.13+ds-0+deb13u1".to_owned()),
            ]
        );
    }
}
