//! `build-ebpf`: builds the BPF programs as object files that balance-userspace embeds.
//!
//! Invariants: an object file is newer than its sources, because balance-userspace embeds no other.
//! An object file is written only if its content changes or it is too old, because each write
//! causes a rebuild of balance-userspace.

use std::{env, fs, io, path::Path, process::Command, time::SystemTime};

use anyhow::{Context as _, Result, ensure};

use crate::{exec::exec, toolchain::Toolchain, workspace};

/// The BPF target. All supported hosts are little-endian, and the programs run on the host.
const TARGET: &str = "bpfel-unknown-none";
const HOSTS: [&str; 2] = ["x86_64", "aarch64"];

/// One object file for each datapath in the kernel.
const OBJECTS: [&str; 2] = ["sockmap", "splice"];

/// The prefix of environment variables that override profile settings of cargo.
const PROFILE: &str = "CARGO_PROFILE_";

/// Build the BPF programs.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs the task.
pub(crate) fn run(Options {}: &Options) -> Result<()> {
    exec(&mut cargo(&toolchain()?, "build")?)?;
    let built = workspace::ebpf_target().join(TARGET).join("release");
    for name in OBJECTS {
        publish(&built.join(name), &workspace::ebpf_object(name))?;
    }
    Ok(())
}

/// Runs the lints of the programs, if the toolchain has clippy.
pub(crate) fn lint() -> Result<()> {
    let toolchain = toolchain()?;
    if !toolchain.has_clippy() {
        eprintln!("skipped: lints of the BPF programs: {toolchain} has no clippy");
        return Ok(());
    }
    exec(cargo(&toolchain, "clippy")?.args(["--", "-D", "warnings"]))
}

fn toolchain() -> Result<Toolchain> {
    Toolchain::find().context("run `cargo xtask setup` first")
}

/// Returns a cargo command that builds the programs.
fn cargo(toolchain: &Toolchain, command: &str) -> Result<Command> {
    let host = env::consts::ARCH;
    ensure!(HOSTS.contains(&host), "the BPF programs cannot be built for {host}");
    // The linker makes BTF, the type information, from debug information. The programs use the
    // atomic instructions of BPF cpu v3.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{host}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
    ];
    let mut cargo = toolchain.cargo(command);
    cargo.args(["--package", "balance-ebpf", "--bins"]);
    cargo.args(["--features", "program", "--release", "--target", TARGET]);
    cargo.arg("--target-dir").arg(workspace::ebpf_target());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Use only the optimisation settings of Cargo.toml: with less optimisation, the verifier of
    // Linux 6.1 rejects the splice program.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(PROFILE))
    {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

fn publish(built: &Path, object: &Path) -> Result<()> {
    let program = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    let sources = workspace::ebpf_sources();
    let newest =
        newest(&sources).with_context(|| format!("cannot search {}", sources.display()))?;
    let dated = object.metadata().and_then(|metadata| metadata.modified());
    if dated.is_ok_and(|dated| dated >= newest) && fs::read(object).is_ok_and(|old| old == program)
    {
        return Ok(());
    }
    fs::write(object, program).with_context(|| format!("cannot write {}", object.display()))
}

/// Returns when the file, or any file in the directory, was last modified.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let metadata = path.metadata()?;
    let mut newest_yet = metadata.modified()?;
    if metadata.is_dir() {
        for entry in path.read_dir()? {
            newest_yet = newest_yet.max(newest(&entry?.path())?);
        }
    }
    Ok(newest_yet)
}
