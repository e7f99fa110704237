//! The kernel modules that the tests need, in loading order.
//!
//! Invariant: a module follows all modules that it depends on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{download::Tree, tools::Tools};
use crate::exec::{exec, output};

/// Network devices, the hooks of the splice datapath before 6.6, and a source of random numbers: a
/// machine without one may block.
const WANTED: [&str; 6] = ["veth", "tun", "bridge", "sch_ingress", "cls_bpf", "virtio_rng"];

/// Copies the modules into a directory. The names sort in loading order.
pub(super) fn copy(tools: &Tools, tree: &Tree, into: &Path) -> Result<()> {
    exec(tools.command("depmod")?.arg("-b").arg(tree.root()).arg(&tree.release))?;
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
    for (i, module) in modules.iter().enumerate() {
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

/// Decompresses a module, because not every kernel loads compressed modules.
fn unpack(tools: &Tools, module: &Path, target: &Path) -> Result<()> {
    let file = fs::File::create(target).with_context(|| target.display().to_string())?;
    exec(tools.command("xz")?.arg("-dc").arg(module).stdout(Stdio::from(file)))
}
