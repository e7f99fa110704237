//! `miri`: runs tests of shared and lent memory under Miri, which detects undefined behaviour.
//!
//! Invariant: these tests need nothing from the kernel that Miri lacks: no mapping of a BPF map, no
//! ring, no socket.

use anyhow::{Context as _, Result};

use crate::{exec::exec, toolchain, workspace};

/// Modules with such tests.
const MODULES: [&str; 4] = [
    "datapath::relay::buffers",
    "datapath::offload::slots",
    "datapath::sockmap::flows",
    "datapath::splice::words",
];

/// Run the tests of shared memory and buffers under Miri, with rustup's nightly and several thread
/// schedules
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of thread schedules
    #[arg(long, default_value_t = 8)]
    seeds: u32,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    exec(&mut toolchain::add_to_nightly(&["miri", "rust-src"]))
        .context("Miri is a part of rustup's nightly: `rustup toolchain install nightly`")?;
    let mut cargo = toolchain::nightly("cargo");
    cargo.current_dir(workspace::root()).env("CARGO_TARGET_DIR", workspace::miri_target());
    cargo.env("MIRIFLAGS", format!("-Zmiri-many-seeds=0..{}", options.seeds));
    cargo.args(["miri", "test", "--package", "balance-userspace", "--lib", "--"]).args(MODULES);
    exec(&mut cargo)
}
