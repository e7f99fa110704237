//! The kernel modules that the tests need.
//!
//! Invariant: a module comes with all modules that it depends on, which precede the module.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{download::Tree, image::copy as copy_file, tools::Tools};
use crate::exec::{exec, output};

/// Network devices, the hooks of the splice datapath before 6.6, and a source of random numbers: a
/// machine without one may block.
const WANTED: [&str; 6] = ["veth", "tun", "bridge", "sch_ingress", "cls_bpf", "virtio_rng"];

/// What depmod(8) reads in addition to the modules.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// Copies the modules into a directory. The names sort in loading order.
pub(super) fn copy(tools: &Tools, tree: &Tree, into: &Path) -> Result<()> {
    for (i, module) in needed(tools, tree)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let target = into.join(format!("{i:02}-{}", name.trim_end_matches(".xz")));
        if name.ends_with(".xz") {
            unpack(tools, module, &target)?;
        } else {
            fs::copy(module, &target).with_context(|| module.display().to_string())?;
        }
    }
    Ok(())
}

/// Copies the modules to their places in a system with modprobe(8).
pub(crate) fn install(tools: &Tools, tree: &Tree, root: &Path) -> Result<()> {
    // depmod reads /lib/modules, which is below /usr in Debian.
    symlink("usr/lib", root.join("lib")).context("lib")?;
    let folder = root.join("usr/lib/modules").join(&tree.release);
    for module in needed(tools, tree)? {
        let place = module.strip_prefix(tree.modules()).context("a module elsewhere")?;
        copy_file(&module, &folder.join(place))?;
    }
    for list in LISTS {
        copy_file(&tree.modules().join(list), &folder.join(list))?;
    }
    depmod(tools, root, &tree.release)
}

fn depmod(tools: &Tools, root: &Path, release: &str) -> Result<()> {
    exec(tools.command("depmod")?.arg("-b").arg(root).arg(release))
}

/// Returns the files of the modules in loading order.
fn needed(tools: &Tools, tree: &Tree) -> Result<Vec<PathBuf>> {
    depmod(tools, tree.root(), &tree.release)?;
    let mut modules: Vec<PathBuf> = Vec::new();
    for wanted in WANTED {
        let mut modprobe = tools.command("modprobe")?;
        modprobe.arg("-d").arg(tree.root()).args(["-S", &tree.release, "--show-depends", wanted]);
        // modprobe prints modules that are built in as `builtin`; these have no file.
        let listing = output(&mut modprobe)?;
        let files = listing.lines().filter_map(|line| line.strip_prefix("insmod "));
        for file in files.map(|file| PathBuf::from(file.trim())) {
            if !modules.contains(&file) {
                modules.push(file);
            }
        }
    }
    Ok(modules)
}

/// Decompresses a module, because not every kernel loads compressed modules.
fn unpack(tools: &Tools, module: &Path, target: &Path) -> Result<()> {
    let file = fs::File::create(target).with_context(|| target.display().to_string())?;
    exec(tools.command("xz")?.arg("-dc").arg(module).stdout(Stdio::from(file)))
}
