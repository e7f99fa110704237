//! Debian packages: which of them are there, and their installation.
//!
//! Invariant: installing starts no service and removes no package, see `apt-install.sh`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    exec::{self, exec, output},
    root::Root,
    workspace,
};

/// Installs what is not there of `packages`, saying so for each of them. `answers` are given to
/// the questions that they ask, as debconf-set-selections(1) takes them.
pub(crate) fn install(packages: &[&str], answers: &str) -> Result<()> {
    if which::which("apt-get").is_err() {
        bail!("this system has no apt-get to install {} with", packages.join(" "));
    }
    let mut missing = Vec::new();
    for package in packages {
        if is_installed(package) {
            eprintln!("package {package}: there");
        } else {
            eprintln!("package {package}: to be installed");
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
