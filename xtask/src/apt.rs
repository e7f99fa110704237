//! Debian packages: checks which are installed and installs the missing ones.
//!
//! Invariant: an installation starts no service and removes no package, see `apt-install.sh`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    exec::{self, exec, output},
    root::Root,
    workspace,
};

/// Installs those of `packages` that are missing and prints the state of each. `answers` are the
/// answers to the questions of the packages, in the format of debconf-set-selections(1).
pub(crate) fn install(packages: &[&str], answers: &str) -> Result<()> {
    if which::which("apt-get").is_err() {
        bail!("cannot install {}: this system has no apt-get", packages.join(" "));
    }
    let mut missing = Vec::new();
    for package in packages {
        if is_installed(package) {
            eprintln!("package {package}: installed");
        } else {
            eprintln!("package {package}: missing");
            missing.push(*package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let root = Root::find();
    let mut install = root.command("sh");
    install.arg(workspace::root().join("xtask/apt-install.sh"));
    install.arg(answers).args(missing);
    if root == Root::Never {
        bail!("only root can install packages: `{}`", exec::line(&install));
    }
    exec(&mut install)
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    output(&mut query).is_ok_and(|status| status == "installed")
}
