//! Development tasks of balance, `cargo xtask TASK`: parses the command line and calls the module
//! of the task.
//!
//! Invariant: a task is a sequence of commands that can also be run by hand. Each command that
//! builds, installs or tests is printed before it runs, and the first failure ends the task.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "xtask writes to the terminal: results on stdout, progress on stderr"
)]

mod apt;
mod attack;
mod background;
mod base_system;
mod bench;
mod build;
mod build_ebpf;
mod demo;
mod dist;
mod exec;
mod executables;
mod fuzz;
mod harness;
mod kernel;
mod lanes;
mod miri;
mod packager;
mod packages;
mod root;
mod run;
mod sanitize;
mod setup;
mod skip;
mod soak;
mod steps;
mod systemd;
mod test;
mod test_programs;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Development tasks of balance.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Setup(setup::Options),
    BuildEbpf(build_ebpf::Options),
    Build(build::Options),
    Run(run::Options),
    Test(test::Options),
    Miri(miri::Options),
    Sanitize(sanitize::Options),
    Demo(demo::Options),
    Dist(dist::Options),
    Bench(bench::Options),
    Soak(soak::Options),
    Attack(attack::Options),
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup(options) => setup::run(&options),
        Task::BuildEbpf(options) => build_ebpf::run(&options),
        Task::Build(options) => build::run(&options),
        Task::Run(options) => run::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Miri(options) => miri::run(&options),
        Task::Sanitize(options) => sanitize::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Attack(options) => attack::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
