//! cargo-deb, which makes Debian packages: its version and its installation.
//!
//! Invariant: only the version named here makes a package.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    apt,
    exec::{exec, output},
    toolchain::programs,
    workspace,
};

const PACKAGER: &str = "cargo-deb";
const VERSION: &str = "3.8.0";

/// What cargo-deb runs: to find the libraries that the program needs, and to strip debug symbols.
const DEBIAN_PACKAGES: [&str; 2] = ["dpkg-dev", "binutils"];

/// Installs cargo-deb and the programs that it runs, unless they are installed.
pub(crate) fn install() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    apt::install(&DEBIAN_PACKAGES, "")?;
    eprintln!("{PACKAGER} {VERSION} is not installed: building it");
    let mut cargo = workspace::cargo();
    // Keep the build out of the workspace's target folder.
    cargo.env_remove("CARGO_TARGET_DIR");
    // Without its own xz, cargo-deb runs the system's.
    cargo.args(["install", PACKAGER, "--version", VERSION, "--locked", "--no-default-features"]);
    exec(&mut cargo)?;
    find().with_context(|| format!("{PACKAGER} is installed but not in cargo's program directory"))
}

fn find() -> Option<PathBuf> {
    programs(PACKAGER).into_iter().find(|packager| {
        let version = output(Command::new(packager).arg("--version"));
        version.is_ok_and(|version| version.split_whitespace().last() == Some(VERSION))
    })
}
