//! `setup`: makes sure that balance can be built, and tested.
//!
//! Invariant: where everything is there nothing is asked of the network or of root; what is
//! missing comes from the package managers, apt and cargo, alone.

use std::{env, process::Command};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    apt, base_system,
    beside::Beside,
    exec::exec,
    kernel, packager, peers,
    root::Root,
    toolchain::{self, Compiler, Toolchain},
};

/// Find or install what builds the BPF program.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also what the tests need: peers to talk to through balance, what makes and judges its
    /// package, and other kernels to run it on.
    #[arg(long)]
    pub(crate) tests: bool,
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = match Toolchain::find() {
        Ok(found) => found,
        Err(why) => {
            eprintln!("{why}: installing one, which takes a few minutes");
            install().map_err(|why| anyhow!("{why:#}\n{}", toolchain::by_hand()))?
        }
    };
    eprintln!("BPF toolchain: {toolchain}");
    if options.tests {
        peers::install()?;
        packager::install()?;
        base_system::make()?;
        kernel::set_up()?;
    }
    Ok(())
}

/// Starts the set-up for tests beside what goes on; not where root asks for a password, there it is
/// done at once.
pub(crate) fn start() -> Result<Option<Beside>> {
    if Root::find_silently() == Root::Never {
        return run(&Options { tests: true }).map(|()| None);
    }
    let task = env::current_exe().context("the executable of this task")?;
    Beside::start("setup", Command::new(task).args(["setup", "--tests"])).map(Some)
}

fn install() -> Result<Toolchain> {
    apt::install(&toolchain::DEBIAN_PACKAGES, "")?;
    let llvm = Compiler::Debian.llvm()?;
    match toolchain::linker(llvm) {
        Ok(linker) => eprintln!("{}: there", linker.display()),
        Err(why) => {
            eprintln!("{why}: building one");
            exec(&mut toolchain::install_linker())?;
        }
    }
    Toolchain::find()
}
