//! The programs that the tests of the package `tests` use: peers of balance, and what looks at its
//! package.
//!
//! Invariant: they are only programs to be run by a test; nothing is configured, and nothing
//! stays running.

use std::env;

use anyhow::{Context as _, Result, bail};

use crate::apt;

/// Each program and the package it is in.
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

/// Postfix asks what kind of mail system this is: none.
const ANSWERS: &str = "postfix postfix/main_mailer_type select No configuration";

/// Makes sure that they are there.
pub(crate) fn install() -> Result<()> {
    let mut packages = Vec::new();
    for (program, package) in PEERS {
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
    match PEERS.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => {
            bail!("the package {package} is installed but has no {program}")
        }
        None => Ok(()),
    }
}

/// Users other than root do not have the `sbin` directories on their PATH.
fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    env::join_paths(places).is_ok_and(|places| which::which_in(program, Some(places), "/").is_ok())
}
