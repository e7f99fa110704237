//! The program that puts Debian packages together, cargo-deb: its pin, and its installation.
//!
//! Invariant: a package is only made by the release that is named here.

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

/// What it runs: for the libraries that the program needs, and to take debugging symbols away.
const DEBIAN_PACKAGES: [&str; 2] = ["dpkg-dev", "binutils"];

/// Makes sure that it is there, with what it runs.
pub(crate) fn install() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    apt::install(&DEBIAN_PACKAGES, "")?;
    eprintln!("{PACKAGER} {VERSION} is not installed: building it");
    let mut cargo = workspace::cargo();
    // Not into this workspace's target directory.
    cargo.env_remove("CARGO_TARGET_DIR");
    // Without its own xz it runs the system's.
    cargo.args(["install", PACKAGER, "--version", VERSION, "--locked", "--no-default-features"]);
    exec(&mut cargo)?;
    find().with_context(|| format!("{PACKAGER} is installed, but not where cargo puts programs"))
}

fn find() -> Option<PathBuf> {
    programs(PACKAGER).into_iter().find(|packager| {
        let version = output(Command::new(packager).arg("--version"));
        version.is_ok_and(|version| version.split_whitespace().last() == Some(VERSION))
    })
}
