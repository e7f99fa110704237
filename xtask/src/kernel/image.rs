//! The boot image of a virtual machine: a kernel, and a small system in an initramfs.
//!
//! Invariant: the system contains every program it runs, with all libraries, and nothing else of
//! this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{download::Tree, modules, tools::Tools};
use crate::{
    exec::{exec, output},
    executables::Programs,
    workspace,
};

/// Programs that the tests run, in addition to balance and the test executables.
const TOOLS: [&str; 7] = ["sh", "mount", "unshare", "ip", "prlimit", "install", "cat"];

/// Configuration of the resolver, users and groups.
const FILES: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/host.conf", "multi on\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\n"),
];

/// Mount points.
const MOUNTED: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// A boot image.
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// Makes the image in a directory.
pub(super) fn make(tools: &Tools, dir: &Path, tree: &Tree, programs: &Programs) -> Result<Image> {
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    for target in MOUNTED.into_iter().chain(["bin", "etc", "modules", "tests"]) {
        let target = root.join(target);
        fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    }
    for (target, text) in FILES {
        fs::write(root.join(target), text).with_context(|| target.to_owned())?;
    }
    let mut inside = vec![(programs.guest.clone(), root.join("init"))];
    inside.push((workspace::program(), root.join("bin/balance")));
    for (name, executable) in &programs.tests {
        inside.push((executable.clone(), root.join("tests").join(name)));
    }
    for tool in TOOLS {
        inside.push((find(tool)?, root.join("bin").join(tool)));
    }
    for (program, target) in &inside {
        copy(program, target)?;
        for library in libraries(program)? {
            copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    modules::copy(tools, tree, &root.join("modules"))?;
    let initramfs = dir.join("initramfs");
    pack(tools, &root, &initramfs)?;
    Ok(Image { kernel: tree.kernel()?, initramfs })
}

fn find(tool: &str) -> Result<PathBuf> {
    which::which_in(tool, std::env::var_os("PATH"), "/")
        .or_else(|_| which::which_in(tool, Some("/usr/sbin:/sbin"), "/"))
        .with_context(|| format!("tests in a machine of their own need {tool}"))
}

pub(crate) fn copy(file: &Path, target: &Path) -> Result<()> {
    let created = target.parent().map_or(Ok(()), fs::create_dir_all);
    created
        .and_then(|()| fs::copy(file, target).map(drop))
        .with_context(|| format!("cannot copy {} to {}", file.display(), target.display()))
}

/// Returns the libraries and the dynamic loader of a program, as ldd(1) prints them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = output(Command::new("ldd").arg(program))?;
    ensure!(!listing.contains("not found"), "{} lacks libraries: {listing}", program.display());
    let words = listing.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// Packs a directory into an initramfs. All files belong to root.
pub(crate) fn pack(tools: &Tools, root: &Path, initramfs: &Path) -> Result<()> {
    let file = fs::File::create(initramfs).with_context(|| initramfs.display().to_string())?;
    let mut find =
        Command::new("find").arg(".").current_dir(root).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().expect("piped");
    let mut cpio = tools.command("cpio")?;
    cpio.args(["--quiet", "-o", "-H", "newc", "-R", "0:0"]).current_dir(root);
    let packed = exec(cpio.stdin(names).stdout(file));
    let found = find.wait()?;
    ensure!(found.success(), "find failed in {}: {found}", root.display());
    packed
}
