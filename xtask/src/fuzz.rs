//! `fuzz`: runs a fuzzer on the properties in `balance-userspace/src/untrusted_input`.
//!
//! Invariants: a run starts with the stored seeds and with the corpus of earlier runs, and ends at
//! the first input that violates a property. Such inputs are kept in `target/`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    apt,
    exec::{self, exec, output},
    toolchain::programs,
    workspace,
};

const FUZZER: &str = "cargo-fuzz";
const VERSION: &str = "0.13.2";

/// The compiler of libFuzzer, which is C++ source code.
const COMPILER: &str = "c++";
const DEBIAN_COMPILER: &str = "g++";

/// Maximum bytes of an input. The first bytes decide how an input is interpreted.
const LONGEST: usize = 4096;

/// Memory limit in megabytes, including the fuzzer.
const MEMORY: usize = 1024;

/// The prefix of the line with libFuzzer's number of executions.
const EXECUTIONS: &str = "stat::number_of_executed_units:";

/// Search for input that violates a property of a parser.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The fuzz target, one of tests/fuzz/fuzz_targets [default: all, one after the other]
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    let targets = match &options.target {
        None => known,
        Some(target) => {
            ensure!(known.contains(target), "unknown target; known targets: {}", known.join(", "));
            vec![target.clone()]
        }
    };
    let fuzzer = install()?;
    let mut done = Vec::new();
    for target in &targets {
        let executions = fuzz(&fuzzer, target, options.seconds)?;
        done.push(format!("{target}: {executions} executions, nothing found"));
    }
    for line in done {
        println!("{line}");
    }
    Ok(())
}

/// Fuzzes one target and returns the number of executions.
fn fuzz(fuzzer: &Path, target: &str, seconds: u32) -> Result<u64> {
    let found = built().join("artifacts").join(target);
    let corpus = built().join("corpus").join(target);
    for folder in [&found, &corpus] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = workspace::in_workspace(fuzzer);
    // The parsers are safe Rust, so a sanitizer finds nothing that does not also panic. Without a
    // sanitizer, the stable compiler suffices.
    command.args(["fuzz", "run", "--sanitizer", "none"]);
    command.arg("--fuzz-dir").arg(sources()).arg("--target-dir").arg(built());
    // libFuzzer writes new inputs to the first folder.
    command.arg(target).arg(&corpus).arg(sources().join("seeds").join(target)).arg("--");
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={LONGEST}")).arg(format!("-rss_limit_mb={MEMORY}"));
    command.args(["-timeout=10", "-print_final_stats=1"]);
    let line = exec::line(&command);
    eprintln!("+ {line}");
    let cannot = || format!("cannot start `{line}`");
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(cannot)?;
    let errors = BufReader::new(child.stderr.take().context("it was piped")?);
    let mut executions = None;
    for text in errors.split(b'\n') {
        let text = text?;
        let text = String::from_utf8_lossy(&text);
        eprintln!("{text}");
        executions = text.strip_prefix(EXECUTIONS).map(str::trim).map(str::to_owned).or(executions);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed: {status}; the failing input is in {}", found.display());
    }
    let executions = executions.and_then(|count| count.parse().ok());
    executions.with_context(|| format!("`{line}` has not printed the number of executions"))
}

fn targets() -> Result<Vec<String>> {
    let folder = sources().join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.flatten().map(|entry| entry.path());
    let names = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

fn sources() -> PathBuf {
    workspace::root().join("tests/fuzz")
}

/// Returns the target folder of the fuzzer, whose compiler flags differ.
fn built() -> PathBuf {
    workspace::target().join("fuzz")
}

/// Installs the fuzzer unless it is installed.
fn install() -> Result<PathBuf> {
    if programs(COMPILER).is_empty() {
        apt::install(&[DEBIAN_COMPILER], "")?;
    }
    if let Some(found) = find() {
        return Ok(found);
    }
    eprintln!("{FUZZER} {VERSION} is not installed: building it");
    let mut cargo = workspace::cargo();
    // Keep the build out of the workspace's target folder.
    cargo.env_remove("CARGO_TARGET_DIR");
    cargo.args(["install", FUZZER, "--version", VERSION, "--locked"]);
    exec(&mut cargo)?;
    find().with_context(|| format!("{FUZZER} is installed but not in cargo's program directory"))
}

fn find() -> Option<PathBuf> {
    programs(FUZZER).into_iter().find(|fuzzer| {
        let version = output(Command::new(fuzzer).args(["fuzz", "--version"]));
        version.is_ok_and(|version| version.split_whitespace().last() == Some(VERSION))
    })
}
