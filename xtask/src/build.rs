//! `build`: the finished program, with the BPF programs embedded.
//!
//! Invariant: the path of the program is the only line on standard output.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    background::BackgroundCommand, build_ebpf, exec::exec, setup, toolchain::Toolchain, workspace,
};

/// Build balance: target/release/balance.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs the task.
pub(crate) fn run(Options {}: &Options) -> Result<()> {
    program()?;
    println!("{}", workspace::program().display());
    Ok(())
}

/// Builds the program for other tasks.
pub(crate) fn program() -> Result<()> {
    build_ebpf::run(&build_ebpf::Options {})?;
    exec(workspace::cargo().args(["build", "--release", "--package", "balance-userspace"]))
}

/// Builds the program without optimisation and returns its path. If the toolchain of the BPF
/// programs is missing, most of the program compiles while the toolchain installs.
pub(crate) fn quick_program() -> Result<PathBuf> {
    let build = ["build", "--package", "balance-userspace", "--bin", "balance"];
    if Toolchain::find().is_err() {
        let toolchain = setup::start(&setup::Options { tests: false })?;
        if let Some(toolchain) = toolchain {
            eprintln!("compiling balance without its BPF programs while their toolchain installs:");
            exec(workspace::cargo().args(build))?;
            BackgroundCommand::finish(toolchain)?;
        }
    }
    build_ebpf::run(&build_ebpf::Options {})?;
    exec(workspace::cargo().args(build))?;
    Ok(workspace::quick_program())
}
