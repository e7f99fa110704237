//! `test`: everything that says whether balance works, the same here and in CI.
//!
//! Invariant: one sequence, each step of which must succeed; nothing is tried again.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    base_system, build, build_ebpf, dist,
    exec::{exec, output},
    kernel::{self, Kernel},
    root::Root,
    setup, workspace,
};

/// Build balance and run all tests.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Check formatting and lints first.
    #[arg(long)]
    lint: bool,
    /// Instead of all that, run tests on this kernel of Debian's, in a virtual machine, on the
    /// datapath that balance takes there; may be given several times.
    #[arg(long = "kernel", value_enum, value_name = "VERSION", conflicts_with = "lint")]
    kernels: Vec<Kernel>,
    /// With `--kernel`, run them on every datapath that works there.
    #[arg(long, requires = "kernels")]
    all_datapaths: bool,
    /// What to give to each `cargo test`, for example a part of the tests' names; with `--kernel`,
    /// which files of tests to run, `FILE/PART` for a part of the names of their tests, and with a
    /// `-` before them names of tests not to run.
    #[arg(last = true, value_name = "CARGO_TEST_ARGS")]
    args: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { tests: options.kernels.is_empty() })?;
    build::program()?;
    if !options.kernels.is_empty() {
        return kernel::test(&options.kernels, options.all_datapaths, &options.args);
    }
    if options.lint {
        exec(workspace::cargo().args(["fmt", "--all", "--check"]))?;
        exec(workspace::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            "balance-userspace/manual",
            "--",
            "-D",
            "warnings",
        ]))?;
        build_ebpf::lint()?;
    }
    exec(cargo_test().args(["--workspace", "--exclude", "tests"]).args(&options.args))?;
    // Optimised: they hash much of what they send.
    let mut tests = cargo_test();
    tests.env("BALANCE_DEB", dist::package()?);
    if let Some(archive) = base_system::make()? {
        tests.env("BALANCE_BASE_SYSTEM", archive);
    }
    tests.args(["--release", "--package", "tests"]).args(&options.args);
    as_root(&mut tests)?;
    exec(&mut tests)?;
    // Who asks for a part of the tests has these by `--kernel`.
    if options.args.is_empty() { kernel::test_briefly() } else { Ok(()) }
}

pub(crate) fn cargo_test() -> Command {
    let mut cargo = workspace::cargo();
    cargo.arg("test").env("BALANCE_BIN", workspace::program());
    cargo
}

/// Has tests run by root, where there is a way.
pub(crate) fn as_root(tests: &mut Command) -> Result<()> {
    match Root::find() {
        Root::Already => {}
        Root::Sudo => {
            tests.env(runner_variable()?, "sudo -E");
        }
        Root::Never => {
            eprintln!("neither root nor sudo: tests of the kernel datapath will be skipped")
        }
    }
    Ok(())
}

/// The variable by which cargo takes a program that runs the tests.
fn runner_variable() -> Result<String> {
    Ok(format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_")))
}

/// What cargo calls this machine.
pub(crate) fn host() -> Result<String> {
    let version = output(workspace::cargo().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("cargo tells no host: {version}"))
}
