//! Tests of the package under the systemd of Debian releases, each in a new virtual machine.
//!
//! Invariant: a release passes only if its machine reports success.

mod image;
mod packages;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::packages::Packages;
use crate::{
    base_system,
    kernel::{
        self, Kernel,
        boot::{self, Machine},
        download,
        tools::Tools,
    },
    skip::skip,
};

/// Time limit: several times what a run takes without hardware virtualisation.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Memory of a machine, which also holds its files.
const MEMORY_MIB: u32 = 2048;

/// Options of the service manager: no terminals and no progress on the console.
const OPTIONS: &str = "systemd.getty_auto=no systemd.show_status=no";

/// A Debian release, identified by the number of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Debian {
    #[value(name = "12")]
    Bookworm,
    #[value(name = "13")]
    Trixie,
}

impl Debian {
    /// The release of a CI run.
    const IN_CI: [Self; 1] = [Self::Bookworm];

    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "Debian 12",
            Self::Trixie => "Debian 13",
        }
    }

    /// Returns the codename.
    fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Returns the kernel with the version of the release.
    fn kernel(self) -> Kernel {
        match self {
            Self::Bookworm => Kernel::Bookworm,
            Self::Trixie => Kernel::Backports,
        }
    }
}

/// What a machine of a release consists of.
struct Ready {
    tools: Tools,
    /// The archive of the system.
    system: PathBuf,
}

/// Runs the steps in `which`, or all if `which` is empty, under these releases.
pub(crate) fn test(releases: &[Debian], package: PathBuf, which: &[String]) -> Result<()> {
    let packages = Packages::new(package)?;
    // One machine after the other: each uses all processors.
    releases.iter().try_for_each(|&release| {
        let ready = make_ready(release)?;
        run(&ready, release, &packages, which)
    })
}

/// Runs all steps under the release of a CI run, or reports why that is not possible.
pub(crate) fn ci_test(package: PathBuf) -> Result<()> {
    match make_ready_for_ci() {
        Ok(()) => test(&Debian::IN_CI, package, &[]),
        Err(why) => skip("tests under systemd", &format!("{why:#}")),
    }
}

/// Downloads what the machine of a CI run needs.
pub(crate) fn set_up() -> Result<()> {
    match make_ready_for_ci() {
        Ok(()) => Ok(()),
        Err(why) => skip("the set-up of tests under systemd", &format!("{why:#}")),
    }
}

fn make_ready_for_ci() -> Result<()> {
    Debian::IN_CI.into_iter().try_for_each(|release| make_ready(release).map(drop))
}

/// Downloads the kernel, the virtual machine programs and the system of a release.
fn make_ready(release: Debian) -> Result<Ready> {
    let tools = kernel::make_ready(&[release.kernel()])?;
    let system = base_system::make_bootable(release.codename(), &tools)
        .with_context(|| format!("the system of {}", release.name()))?;
    Ok(Ready { tools, system })
}

fn run(ready: &Ready, release: Debian, packages: &Packages, which: &[String]) -> Result<()> {
    let (name, started) = (release.name(), Instant::now());
    let Ready { tools, system } = ready;
    let tree = download::fetched(release.kernel()).context("the kernel has been removed")?;
    let image = image::make(tools, release.codename(), &tree, system, packages, which)
        .with_context(|| name.to_owned())?;
    let machine = Machine {
        image: &image,
        name,
        memory_mib: MEMORY_MIB,
        options: OPTIONS.to_owned(),
        limit: LIMIT,
    };
    boot::run(tools, &machine, |_| ()).with_context(|| name.to_owned())?;
    eprintln!("{name}: all steps passed; {} s", started.elapsed().as_secs());
    Ok(())
}
