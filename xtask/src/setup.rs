//! `setup`: installs what is needed to build balance and, on request, to test balance.
//!
//! Invariant: when nothing is missing, no task uses the network or asks for root. Everything that
//! is missing comes from the package managers apt and cargo.

use std::{env, process::Command};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    apt,
    background::BackgroundCommand,
    base_system,
    exec::exec,
    kernel, packager,
    root::Root,
    systemd, test_programs,
    toolchain::{self, Compiler, Toolchain},
};

/// Find or install the toolchain that builds the BPF programs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also install what the tests need: other programs to talk to through balance, the tools that
    /// build and check the package, other kernels, and Debian systems to run the package in.
    #[arg(long)]
    pub(crate) tests: bool,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = match Toolchain::find() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}: installing one takes about two minutes");
            install().map_err(|error| anyhow!("{error:#}\n{}", toolchain::by_hand()))?
        }
    };
    eprintln!("BPF toolchain: {toolchain}");
    if options.tests {
        test_programs::install()?;
        packager::install()?;
        base_system::make()?;
        kernel::set_up()?;
        systemd::set_up()?;
    }
    Ok(())
}

/// Starts the task in the background. Where sudo would ask for a password, runs the task to its end
/// in the foreground and returns `None`.
pub(crate) fn start(options: &Options) -> Result<Option<BackgroundCommand>> {
    if Root::find_silently() == Root::Never {
        return run(options).map(|()| None);
    }
    let mut task = Command::new(env::current_exe().context("cannot find this executable")?);
    task.arg("setup");
    if options.tests {
        task.arg("--tests");
    }
    BackgroundCommand::start("setup", &mut task).map(Some)
}

fn install() -> Result<Toolchain> {
    apt::install(&toolchain::DEBIAN_PACKAGES, "")?;
    let llvm = Compiler::Debian.llvm()?;
    match toolchain::linker(llvm) {
        Ok(linker) => eprintln!("{}: found", linker.display()),
        Err(error) => {
            eprintln!("{error}: building one");
            exec(&mut toolchain::install_linker())?;
        }
    }
    Toolchain::find()
}
