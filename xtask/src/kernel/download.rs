//! Kernels of other releases of Debian than this system's: fetched by apt, from where this system has
//! its own packages.
//!
//! Invariants: apt checks what it fetches against Debian's keys; nothing of this system's apt is
//! changed; and a kernel that is there is complete, and goes on to be used until it is removed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::Kernel;
use crate::{
    exec::{exec, output},
    workspace,
};

/// Debian's keys, of the package debian-archive-keyring.
pub(crate) const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What depends on the newest kernel of a suite that is made for virtual machines.
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
    let dir = place(kernel);
    dir.join(STAMP).exists().then(|| Tree::at(dir.join("tree")).ok())?
}

/// Gets the newest kernel that begins with that version, unless one is there.
pub(super) fn fetch(kernel: Kernel) -> Result<Tree> {
    if let Some(tree) = fetched(kernel) {
        return Ok(tree);
    }
    let (dir, state) = (place(kernel), place(kernel).join("apt"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&state).with_context(|| state.display().to_string())?;
    let apt = Apt::new(&state, kernel)?;
    let version = apt.newest()?;
    let begins = [".", "-"].map(|end| format!("{}{end}", kernel.version()));
    ensure!(
        begins.iter().any(|begin| version.starts_with(begin)),
        "{} has the kernel {version} now",
        kernel.suites().join(" and ")
    );
    let tree = dir.join("tree");
    apt.unpack(&tree)?;
    fs::remove_dir_all(&state).with_context(|| state.display().to_string())?;
    // The last of all: it stands for a complete tree.
    fs::write(dir.join(STAMP), version).with_context(|| dir.display().to_string())?;
    Tree::at(tree)
}

/// What says that a tree is complete: its package's version.
const STAMP: &str = "version";

/// Where a kernel is kept from one run to the next.
pub(super) fn place(kernel: Kernel) -> PathBuf {
    workspace::kernels().join(kernel.version())
}

/// Apt with sources and a state of its own.
struct Apt<'a> {
    dir: &'a Path,
}

impl<'a> Apt<'a> {
    fn new(dir: &'a Path, kernel: Kernel) -> Result<Self> {
        ensure!(
            Path::new(KEYS).exists(),
            "{KEYS} is missing: the package debian-archive-keyring has it"
        );
        let mut sources = String::new();
        for suite in kernel.suites() {
            let mirror = mirror(suite)?;
            sources += &format!("deb [arch=amd64 signed-by={KEYS}] {mirror} {suite} main\n");
        }
        for place in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(place)).with_context(|| dir.display().to_string())?;
        }
        // No package is installed there.
        fs::write(dir.join("status"), "").with_context(|| dir.display().to_string())?;
        fs::write(dir.join("sources.list"), sources).with_context(|| dir.display().to_string())?;
        Ok(Self { dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, place: &str| format!("{name}={}", self.dir.join(place).display());
        for option in [
            option("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=-".to_owned(),
            option("Dir::State::Lists", "lists"),
            option("Dir::State::Status", "status"),
            option("Dir::Cache", ""),
            "APT::Architecture=amd64".to_owned(),
            // Only the lists of packages; and by ourselves, who own the cache.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The version of the newest kernel.
    fn newest(&self) -> Result<String> {
        exec(self.command("apt-get").args(["--quiet", "--error-on=any", "update"]))?;
        let said = output(self.command("apt-cache").args(["show", "--no-all-versions", NEWEST]))?;
        let version = said.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok(version.with_context(|| format!("apt knows no {NEWEST}"))?.to_owned())
    }

    /// Fetches the newest kernel and unpacks it there.
    fn unpack(&self, tree: &Path) -> Result<()> {
        let packages = self.packages()?;
        let fetched = self.dir.join("packages");
        let _ = fs::remove_dir_all(&fetched);
        fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
        let mut download = self.command("apt-get");
        exec(download.args(["--quiet", "download"]).args(packages).current_dir(&fetched))?;
        let _ = fs::remove_dir_all(tree);
        // Both names are the same in a system, and programs look for the first one.
        let usr = tree.join("usr/lib");
        fs::create_dir_all(&usr).with_context(|| usr.display().to_string())?;
        std::os::unix::fs::symlink("usr/lib", tree.join("lib"))
            .with_context(|| tree.display().to_string())?;
        for package in fs::read_dir(&fetched)? {
            // Through tar, which goes through the link.
            let mut unpack = Command::new("sh");
            unpack.args([
                "-ec",
                "dpkg-deb --fsys-tarfile \"$1\" | tar -xC \"$2\" --keep-directory-symlink",
            ]);
            exec(unpack.arg("sh").arg(package?.path()).arg(tree))?;
        }
        fs::remove_dir_all(&fetched).with_context(|| fetched.display().to_string())
    }

    /// The packages that the newest kernel is in: one, or several since it has been split.
    fn packages(&self) -> Result<Vec<String>> {
        let mut depends = self.command("apt-cache");
        let said = output(depends.args(["depends", "--recurse", "--important", NEWEST]))?;
        let is_kernel = |name: &str| {
            let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
            name != NEWEST
                && name.ends_with("-cloud-amd64")
                && parts.iter().any(|part| name.starts_with(part))
        };
        let mut packages: Vec<String> =
            said.lines().filter(|line| is_kernel(line)).map(str::to_owned).collect();
        packages.sort();
        packages.dedup();
        if packages.is_empty() {
            bail!("{NEWEST} depends on no kernel");
        }
        Ok(packages)
    }
}

/// Where this system has Debian's packages from, or their security updates.
fn mirror(suite: &str) -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]);
    apt.args(["Created-By: Packages", "Origin: Debian", "Component: main"]);
    let is_security = |release: &str| release.ends_with("-security");
    let said = output(&mut apt)?;
    let mut mirrors = said.lines().filter_map(|line| line.split_once(' '));
    let mirror = mirrors.find(|(release, _)| is_security(release) == is_security(suite));
    let (_, mirror) =
        mirror.with_context(|| format!("apt has no source that {suite} could come from"))?;
    Ok(mirror.to_owned())
}
