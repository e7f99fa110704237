//! The programs that the tests of the package `tests` use: peers of balance, what looks at its
//! package, and what makes machines to run it in.
//!
//! Invariant: they are only programs to be run by a test; nothing is configured, and nothing
//! stays running.

use std::{env, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{apt, kernel};

/// Each program, or another file that is read, and the package it is in.
const PEERS: [(&str, &str); 9] = [
    ("smtp-source", "postfix"),
    ("smtp-sink", "postfix"),
    ("ip", "iproute2"),
    // Runs the recordings of the classic.
    ("python3", "python3"),
    ("swaks", "swaks"),
    // These judge the package.
    ("debootstrap", "debootstrap"),
    ("lintian", "lintian"),
    ("man", "man-db"),
    ("systemd-analyze", "systemd"),
];

/// What makes and runs the machines with other kernels.
const MACHINES: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    (kernel::KEYS, "debian-archive-keyring"),
];

/// Postfix asks what kind of mail system this is: none.
const ANSWERS: &str = "postfix postfix/main_mailer_type select No configuration";

/// Makes sure that the peers are there.
pub(crate) fn install() -> Result<()> {
    install_all(&PEERS)
}

/// Makes sure that what virtual machines take is there.
pub(crate) fn install_machines() -> Result<()> {
    install_all(&MACHINES)
}

fn install_all(programs: &[(&str, &'static str)]) -> Result<()> {
    let mut packages = Vec::new();
    for &(program, package) in programs {
        if is_there(program) {
            eprintln!("test program {program}: there");
        } else {
            eprintln!("test program {program}: missing, it is in the package {package}");
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    packages.dedup();
    apt::install(&packages, ANSWERS).context("cannot install what the tests run")?;
    match programs.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => {
            bail!("the package {package} is installed but has no {program}")
        }
        None => Ok(()),
    }
}

/// Users other than root do not have the `sbin` directories on their PATH.
fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    env::join_paths(places).is_ok_and(|places| which::which_in(program, Some(places), "/").is_ok())
}
