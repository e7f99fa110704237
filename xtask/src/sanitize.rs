//! `sanitize`: runs tests of balance with AddressSanitizer, which checks memory accesses.
//!
//! Invariant: the tests are the usual ones, and only the program is built differently. The program
//! stops with a report at the first invalid access, which fails the test.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf,
    exec::exec,
    setup,
    test::{as_root, cargo_test, host},
    toolchain, workspace,
};

/// The default tests: those that move bytes on all datapaths.
const TESTS: [&str; 3] = ["integrity", "closing", "stall"];

/// Run tests of balance with AddressSanitizer, built by rustup's nightly
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which modules of `tests/cases/datapaths` to run
    #[arg(last = true, value_name = "MODULE", default_values = TESTS)]
    tests: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { tests: true })?;
    build_ebpf::run(&build_ebpf::Options {})?;
    let mut tests = cargo_test();
    // At exit, the buffers that the kernel still uses keep their memory, which looks like a leak.
    tests.env("ASAN_OPTIONS", "detect_leaks=0");
    tests.env("BALANCE_BIN", build()?);
    tests.args(["--test", "datapaths", "--"]);
    for module in &options.tests {
        tests.arg(format!("{module}::"));
    }
    as_root(&mut tests)?;
    exec(&mut tests)
}

fn build() -> Result<PathBuf> {
    let host = host()?;
    let mut cargo = toolchain::nightly("cargo");
    cargo.current_dir(workspace::root()).env("CARGO_TARGET_DIR", workspace::sanitizer_target());
    cargo.env("RUSTFLAGS", "-Zsanitizer=address");
    // With an explicit target, build scripts and macros are built without the sanitizer.
    cargo.args(["build", "--release", "--package", "balance-userspace", "--target", &host]);
    exec(&mut cargo).context(
        "the sanitizer is a part of rustup's nightly: `rustup toolchain install nightly`",
    )?;
    Ok(workspace::sanitizer_target().join(host).join("release/balance"))
}
