//! `miri`: tests of memory that is shared or lent, under an interpreter that finds undefined behaviour.
//!
//! Invariant: what runs here needs nothing of the kernel that the interpreter does not know: no
//! mapping of a BPF map, no ring, no socket.

use anyhow::{Context as _, Result};

use crate::{exec::exec, toolchain, workspace};

/// Modules with such tests.
const MODULES: [&str; 3] = ["datapath::buffers", "datapath::slots", "datapath::sockmap::flows"];

/// Run the tests of shared memory and buffers under Miri, with rustup's nightly; each with several
/// courses that threads can take.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many courses.
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
