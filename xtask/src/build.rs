//! `build`: the finished program, with the BPF program inside.
//!
//! Invariant: the path is the last line, and the only one on standard output.

use anyhow::Result;

use crate::{build_ebpf, exec::exec, workspace};

/// Build balance: target/release/balance.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs the task.
pub(crate) fn run(Options {}: &Options) -> Result<()> {
    program()?;
    println!("{}", workspace::program().display());
    Ok(())
}

/// Builds it, for the tasks that go on to use it.
pub(crate) fn program() -> Result<()> {
    build_ebpf::run(&build_ebpf::Options {})?;
    exec(workspace::cargo().args(["build", "--release", "--package", "balance-userspace"]))
}
