//! `fuzz`: has a fuzzer look for bytes for which a property of `balance-userspace/src/untrusted_input` does not hold.
//!
//! Invariants: a run begins with the seeds that are kept and with what earlier runs have found to be
//! of interest, and ends at the first bytes for which it does not hold; what is found is kept in `target/`.

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

/// libFuzzer is written in C++, and comes as its source.
const COMPILER: &str = "c++";
const DEBIAN_COMPILER: &str = "g++";

/// Bytes of the longest input; what is read is told apart by its first few.
const LONGEST: usize = 4096;

/// Megabytes that a reader of such an input may need, the fuzzer's own included.
const MEMORY: usize = 1024;

/// What libFuzzer says at its end.
const EXECUTIONS: &str = "stat::number_of_executed_units:";

/// Look for input that makes balance panic or misunderstand.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What reads the input, as in tests/fuzz/fuzz_targets [default: all, one after the other]
    target: Option<String>,
    /// How long to look, for each
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    let targets = match &options.target {
        None => known,
        Some(target) => {
            ensure!(known.contains(target), "no such target; there are: {}", known.join(", "));
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

/// Runs one fuzzer, and returns how often it had its input read.
fn fuzz(fuzzer: &Path, target: &str, seconds: u32) -> Result<u64> {
    let found = built().join("artifacts").join(target);
    let corpus = built().join("corpus").join(target);
    for folder in [&found, &corpus] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = workspace::in_workspace(fuzzer);
    // Everything that reads is safe Rust, so a sanitizer would find nothing that does not panic;
    // and without one a stable compiler does.
    command.args(["fuzz", "run", "--sanitizer", "none"]);
    command.arg("--fuzz-dir").arg(sources()).arg("--target-dir").arg(built());
    // What is new goes to the first.
    command.arg(target).arg(&corpus).arg(sources().join("seeds").join(target)).arg("--");
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={LONGEST}")).arg(format!("-rss_limit_mb={MEMORY}"));
    command.args(["-timeout=10", "-print_final_stats=1"]);
    let line = exec::line(&command);
    eprintln!("+ {line}");
    let cannot = || format!("cannot start `{line}`");
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(cannot)?;
    let said = BufReader::new(child.stderr.take().context("it was piped")?);
    let mut executions = None;
    for text in said.split(b'\n') {
        let text = text?;
        let text = String::from_utf8_lossy(&text);
        eprintln!("{text}");
        executions = text.strip_prefix(EXECUTIONS).map(str::trim).map(str::to_owned).or(executions);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed: {status}; what it has found is in {}", found.display());
    }
    let executions = executions.and_then(|count| count.parse().ok());
    executions.with_context(|| format!("`{line}` does not say what it has done"))
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

/// Apart from the rest, which is built in another way.
fn built() -> PathBuf {
    workspace::target().join("fuzz")
}

/// Makes sure that the fuzzer is there.
fn install() -> Result<PathBuf> {
    if programs(COMPILER).is_empty() {
        apt::install(&[DEBIAN_COMPILER], "")?;
    }
    if let Some(found) = find() {
        return Ok(found);
    }
    eprintln!("{FUZZER} {VERSION} is not installed: building it");
    let mut cargo = workspace::cargo();
    // Not into this workspace's target directory.
    cargo.env_remove("CARGO_TARGET_DIR");
    cargo.args(["install", FUZZER, "--version", VERSION, "--locked"]);
    exec(&mut cargo)?;
    find().with_context(|| format!("{FUZZER} is installed, but not where cargo puts programs"))
}

fn find() -> Option<PathBuf> {
    programs(FUZZER).into_iter().find(|fuzzer| {
        let version = output(Command::new(fuzzer).args(["fuzz", "--version"]));
        version.is_ok_and(|version| version.split_whitespace().last() == Some(VERSION))
    })
}
