//! Where things are in the workspace.
//!
//! Invariant: everything is built into `target/` of the checkout, wherever a task is called
//! from and whatever CARGO_TARGET_DIR says, because balance-userspace looks for the BPF object
//! there and the manual names the program there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}

/// The sources of the BPF program.
pub(crate) fn ebpf_sources() -> PathBuf {
    root().join("balance-ebpf")
}

/// Where the BPF program is built, apart from the rest: its compiler may be another one.
pub(crate) fn ebpf_target() -> PathBuf {
    target().join("ebpf")
}

/// The BPF object that balance-userspace embeds.
pub(crate) fn ebpf_object(name: &str) -> PathBuf {
    ebpf_target().join(format!("{name}.o"))
}

/// The finished program.
pub(crate) fn program() -> PathBuf {
    target().join("release/balance")
}

/// The cargo that runs this task, for a command of its own in this workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target());
    cargo
}

fn target() -> PathBuf {
    root().join("target")
}
