//! `test`: builds balance and runs all tests, the same way here and in CI.
//!
//! Invariants: the steps run in one sequence and all must succeed. Nothing is retried. The time of
//! each step is shown.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    background::BackgroundCommand,
    base_system, build, build_ebpf, dist,
    exec::{exec, output},
    executables::{self, Executable},
    kernel::{self, Kernel},
    lanes::{self, Test},
    root::Root,
    setup,
    steps::Steps,
    systemd::{self, Debian},
    workspace,
};

/// Build balance and run all tests
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Check formatting and lints first
    #[arg(long)]
    lint: bool,
    /// Instead, run tests on this Debian kernel in a virtual machine, on the datapath that balance
    /// chooses there. May be given several times
    #[arg(long = "kernel", value_enum, value_name = "VERSION", conflicts_with = "lint")]
    kernels: Vec<Kernel>,
    /// With `--kernel`, run the tests on every datapath that works there
    #[arg(long, requires = "kernels")]
    all_datapaths: bool,
    /// Instead, test the package from install to purge under the systemd of this Debian release in
    /// a virtual machine. May be given several times
    #[arg(
        long,
        value_enum,
        value_name = "RELEASE",
        num_args = 0..=1,
        default_missing_value = "12",
        conflicts_with_all = ["lint", "kernels"]
    )]
    systemd: Vec<Debian>,
    /// Instead of all tests, run those that these arguments of `cargo test` select, for example
    /// `--test NAME` or a part of the test names. With `--kernel`: test executables, each as `NAME`
    /// or as `NAME/PART` with a part of the test names, and `-PART` for tests to skip. With
    /// `--systemd`: steps
    #[arg(last = true, value_name = "CARGO_TEST_ARGS")]
    args: Vec<String>,
}

/// The test executables that take longest. They start first, so that none of them runs alone at the
/// end.
const FIRST: [&str; 6] = ["networks", "datapaths", "load", "service", "control", "program"];

/// Number of lines in the table of the slowest test executables.
const SLOWEST: usize = 12;

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.kernels.is_empty() {
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
        return kernel::test(&options.kernels, options.all_datapaths, &options.args);
    }
    if !options.systemd.is_empty() {
        setup::run(&setup::Options { tests: false })?;
        build::program()?;
        return systemd::test(&options.systemd, dist::package()?, &options.args);
    }
    let mut steps = Steps::default();
    let outcome = match options.args.is_empty() {
        true => all_steps(options.lint, &mut steps),
        false => selected_tests(options, &mut steps),
    };
    eprint!("{steps}");
    outcome
}

/// Runs all steps. The commands can be run by hand.
fn all_steps(lint: bool, steps: &mut Steps) -> Result<()> {
    steps.run("toolchain", || setup::run(&setup::Options { tests: false }))?;
    // Mostly downloads, so they run while the next steps compile.
    let set_up = setup::start(&setup::Options { tests: true })?;
    steps.run("program", build::program)?;
    if lint {
        steps.run("lints", self::lint)?;
    }
    let tests = steps.run("build tests", executables::build_all)?;
    steps.run("test set-up", || set_up.map_or(Ok(()), BackgroundCommand::finish))?;
    let package = steps.run("package", dist::package)?;
    let environment = environment(&package)?;
    let times = steps.run("tests", || lanes::run(in_lanes(tests, &environment)))?;
    // Nothing else runs at the same time: an emulated machine uses all processors.
    let kernels = steps.run("tests on other kernels", kernel::ci_test);
    let outcome =
        kernels.and_then(|()| steps.run("package under systemd", || systemd::ci_test(package)));
    eprintln!("slowest test executables:");
    for (time, name) in times.iter().take(SLOWEST) {
        eprintln!("{name:<32} {:>8.0}", time.as_secs_f64());
    }
    outcome
}

/// Runs the selected tests with cargo, which reports unknown names.
fn selected_tests(options: &Options, steps: &mut Steps) -> Result<()> {
    steps.run("set-up", || setup::run(&setup::Options { tests: true }))?;
    steps.run("program", build::program)?;
    if options.lint {
        steps.run("lints", self::lint)?;
    }
    let package = steps.run("package", dist::package)?;
    let environment = environment(&package)?;
    steps.run("tests", || {
        let mut tests = cargo_test();
        as_root(tests.envs(environment).args(&options.args))?;
        exec(&mut tests)
    })
}

fn lint() -> Result<()> {
    exec(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    let mut clippy = workspace::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]).args(executables::FEATURES);
    exec(clippy.args(["--", "-D", "warnings"]))?;
    build_ebpf::lint()
}

/// Returns environment variables with the paths of the package and of the system to install the
/// package in.
fn environment(package: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut environment = vec![("BALANCE_DEB", package.to_owned())];
    environment.extend(base_system::make()?.map(|archive| ("BALANCE_BASE_SYSTEM", archive)));
    Ok(environment)
}

/// Returns the commands that run these executables, as root for those that drive the program.
fn in_lanes(mut tests: Vec<Executable>, environment: &[(&str, PathBuf)]) -> Vec<Test> {
    let position =
        |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    tests.sort_by_key(|test| position(&test.name));
    let root = Root::find();
    if root == Root::Never {
        eprintln!("{NO_ROOT}");
    }
    let command = |test: &Executable| {
        let mut command = test.command();
        if test.drives_program() && root == Root::Sudo {
            command = Command::new("sudo");
            command.current_dir(&test.package).arg("-E").arg(&test.path);
        }
        command.env("BALANCE_BIN", workspace::program()).envs(environment.iter().cloned());
        command
    };
    let name = |test: &Executable| match test.drives_program() {
        true => test.name.clone(),
        false => format!("unit tests of {}", test.name),
    };
    tests.iter().map(|test| Test { name: name(test), command: command(test) }).collect()
}

const NO_ROOT: &str = "neither root nor sudo: tests of the datapaths in the kernel will be skipped";

/// Returns a `cargo test` command with the same selection as `executables`.
pub(crate) fn cargo_test() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace"]).args(executables::FEATURES);
    cargo.env("BALANCE_BIN", workspace::program());
    cargo
}

/// Makes tests run as root if possible.
pub(crate) fn as_root(tests: &mut Command) -> Result<()> {
    match Root::find() {
        Root::Already => {}
        Root::Sudo => {
            tests.env(runner_variable()?, "sudo -E");
        }
        Root::Never => {
            eprintln!("{NO_ROOT}");
        }
    }
    Ok(())
}

/// Returns the environment variable with the program that runs the tests.
fn runner_variable() -> Result<String> {
    Ok(format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_")))
}

/// Returns cargo's name of this host.
pub(crate) fn host() -> Result<String> {
    let version = output(workspace::cargo().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("cargo prints no host: {version}"))
}
