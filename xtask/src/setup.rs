//! `setup`: makes sure that balance can be built, and tested.
//!
//! Invariant: where everything is there nothing is asked of the network or of root; what is
//! missing comes from the package managers, apt and cargo, alone.

use anyhow::{Result, anyhow};

use crate::{
    apt, base_system,
    exec::exec,
    kernel, packager, peers,
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
