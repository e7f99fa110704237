//! `dist`: builds the Debian package, with man pages and completions.
//!
//! Invariants: the path of the package is the last line on standard output. The version is that of
//! the workspace, with the epoch and the revision of `packaging/changelog`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build,
    exec::{exec, output},
    executables::FEATURES,
    packager, setup, workspace,
};

/// Build the Debian package, with man pages and completions: target/dist.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs the task.
pub(crate) fn run(Options {}: &Options) -> Result<()> {
    setup::run(&setup::Options { tests: false })?;
    build::program()?;
    println!("{}", package()?.display());
    Ok(())
}

/// Packages the program, which must have been built, and returns the path of the package.
pub(crate) fn package() -> Result<PathBuf> {
    let packager = packager::install()?;
    // Unoptimised, because the program runs only for a moment.
    let mut build = workspace::cargo();
    build.args(["build", "--workspace"]).args(FEATURES).args(["--bin", "manual"]);
    exec(&mut build)?;
    let mut manual = Command::new(workspace::target().join("debug/manual"));
    exec(manual.arg(workspace::dist().join("manual")))?;

    let version = version()?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    // File names of Debian packages omit the epoch.
    let (_, name) = version.split_once(':').unwrap_or(("", &version));
    let package = workspace::dist().join(format!("balance_{name}_{}.deb", architecture.trim()));
    let mut cargo = workspace::in_workspace(packager);
    cargo.args(["--quiet", "--no-build", "--locked", "--package", "balance-userspace"]);
    cargo.args(["--deb-version", &version, "--output"]).arg(&package);
    exec(cargo.stdout(Stdio::null()))?;
    Ok(package)
}

/// Returns the version of the first changelog entry, `balance (VERSION) ...`.
fn version() -> Result<String> {
    let path = workspace::root().join("balance-userspace/packaging/changelog");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let version = text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let (version, _) = version.with_context(|| format!("{} has no version", path.display()))?;
    let ours = env!("CARGO_PKG_VERSION");
    let upstream = version.split_once(':').unwrap_or(("", version)).1;
    let upstream = upstream.rsplit_once('-').unwrap_or((upstream, "")).0;
    ensure!(upstream == ours, "{} has version {version}, the workspace has {ours}", path.display());
    Ok(version.to_owned())
}
