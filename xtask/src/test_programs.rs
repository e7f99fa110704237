//! The programs that the tests run: servers and clients, and tools that check the package.
//!
//! Invariant: the programs are only installed. Nothing is configured and no service keeps running.

use std::env;

use anyhow::{Context as _, Result, bail};

use crate::apt;

/// The programs with their packages.
const PROGRAMS: [(&str, &str); 9] = [
    ("smtp-source", "postfix"),
    ("smtp-sink", "postfix"),
    ("ip", "iproute2"),
    // Runs the recordings of the classic.
    ("python3", "python3"),
    ("swaks", "swaks"),
    // Check the package.
    ("debootstrap", "debootstrap"),
    ("lintian", "lintian"),
    ("man", "man-db"),
    ("systemd-analyze", "systemd"),
];

/// Postfix asks for the kind of mail system: none.
const ANSWERS: &str = "postfix postfix/main_mailer_type select No configuration";

/// Installs the programs that are missing.
pub(crate) fn install() -> Result<()> {
    let mut packages = Vec::new();
    for (program, package) in PROGRAMS {
        if is_installed(program) {
            eprintln!("test program {program}: installed");
        } else {
            eprintln!("test program {program}: missing, from package {package}");
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    packages.dedup();
    apt::install(&packages, ANSWERS).context("cannot install the test programs")?;
    match PROGRAMS.iter().find(|(program, _)| !is_installed(program)) {
        Some((program, package)) => {
            bail!("the package {package} is installed but has no {program}")
        }
        None => Ok(()),
    }
}

/// Returns true if a program is installed. The PATH of users other than root lacks the `sbin`
/// directories.
fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    env::join_paths(directories)
        .is_ok_and(|directories| which::which_in(program, Some(directories), "/").is_ok())
}
