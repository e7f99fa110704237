//! The toolchains that can build the BPF program: all their pins, and which is on this machine.
//!
//! Invariant: a toolchain that is found is complete and its parts fit each other; whatever is
//! not found comes with the reason.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{exec::output, workspace};

/// Debian's compiler with `core` for the target (the first two), and what its LLVM and the
/// linker are built from.
pub(crate) const DEBIAN_PACKAGES: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_TARGET: &str = "/usr/lib/rustlib/bpfel-unknown-none";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

/// Crates that use features which a stable compiler keeps to itself.
const UNSTABLE_CRATES: &str = "aya_ebpf,balance_ebpf,splice";

const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
/// Must name the LLVM of `DEBIAN_PACKAGES`.
const LINKER_FEATURE: &str = "llvm-22";

/// A compiler for the BPF target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compiler {
    /// rustup's nightly, which builds `core` for the target from its sources.
    Nightly,
    /// Debian's, which brings a `core` built for the target.
    Debian,
}

/// A compiler and a linker that fits it.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// The one to use, or why there is none.
    pub(crate) fn find() -> Result<Self> {
        Self::with(Compiler::Nightly).or_else(|nightly| {
            Self::with(Compiler::Debian).map_err(|debian| {
                anyhow!("no toolchain for the BPF program ({nightly:#}; {debian:#})")
            })
        })
    }

    fn with(compiler: Compiler) -> Result<Self> {
        let llvm = compiler.llvm().with_context(|| compiler.to_string())?;
        let linker = linker(llvm).with_context(|| compiler.to_string())?;
        Ok(Self { compiler, linker })
    }

    /// Whether it has lints.
    pub(crate) fn has_clippy(&self) -> bool {
        match self.compiler {
            Compiler::Nightly => output(nightly("cargo").args(["clippy", "--version"])).is_ok(),
            Compiler::Debian => false,
        }
    }

    /// A command of cargo's that builds, with this toolchain.
    pub(crate) fn cargo(&self, command: &str) -> Command {
        let mut cargo = match self.compiler {
            Compiler::Nightly => {
                let mut cargo = nightly("cargo");
                cargo.current_dir(workspace::root());
                cargo.args([command, "-Z", "build-std=core"]);
                cargo
            }
            Compiler::Debian => {
                let mut cargo = workspace::cargo();
                cargo.env("RUSTC", DEBIAN_RUSTC);
                cargo.env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES);
                cargo.arg(command);
                cargo
            }
        };
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        cargo
    }
}

impl Compiler {
    /// The LLVM it is made of, or what it lacks.
    pub(crate) fn llvm(self) -> Result<u32> {
        let version = match self {
            Self::Nightly => {
                let sysroot = output(nightly("rustc").args(["--print", "sysroot"]))
                    .map_err(|_| anyhow!("is not installed"))?;
                if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library").exists() {
                    bail!("lacks the component rust-src");
                }
                output(nightly("rustc").arg("-vV"))?
            }
            Self::Debian => {
                if !Path::new(DEBIAN_TARGET).exists() {
                    bail!("lacks {DEBIAN_TARGET}");
                }
                output(Command::new(DEBIAN_RUSTC).arg("-vV"))?
            }
        };
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version:"));
        llvm.and_then(first_number).with_context(|| format!("tells no LLVM version: {version}"))
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => "Debian's rustc-web",
        })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.compiler, self.linker.display())
    }
}

/// A program of rustup's nightly, free of what the cargo that runs us has set for itself.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command.args(["run", "nightly", program]);
    command
}

/// The command that adds parts to rustup's nightly, if they are not there.
pub(crate) fn add_to_nightly(components: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["component", "add", "--toolchain", "nightly"]).args(components);
    command
}

/// A linker that reads what a compiler of that LLVM writes, or why there is none.
pub(crate) fn linker(llvm: u32) -> Result<PathBuf> {
    let mut why = anyhow!("{LINKER} is not installed");
    for linker in programs(LINKER) {
        match llvm_of_linker(&linker) {
            Err(error) => why = error,
            // A released linker has its LLVM built in and does not tell: trust it.
            Ok(None) => return Ok(linker),
            Ok(Some(own)) if own >= llvm => return Ok(linker),
            Ok(Some(own)) => {
                why = anyhow!(
                    "{} is of LLVM {own} and cannot read what LLVM {llvm} writes",
                    linker.display()
                );
            }
        }
    }
    Err(why)
}

/// All programs of that name. Cargo's own directory is not on everybody's PATH.
pub(crate) fn programs(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let places = env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin")));
    places.map(|place| place.join(name)).filter(|program| program.is_file()).collect()
}

/// The LLVM that the linker loads, by the name of the library (`libLLVM.so.22.1`); `None` if it
/// loads none.
fn llvm_of_linker(linker: &Path) -> Result<Option<u32>> {
    // Fails for a static program.
    let libraries = output(Command::new("ldd").arg(linker)).unwrap_or_default();
    let Some(library) = libraries.lines().map(str::trim).find(|line| line.starts_with("libLLVM"))
    else {
        return Ok(None);
    };
    if library.ends_with("not found") {
        bail!("{} does not run: {library}", linker.display());
    }
    Ok(first_number(library))
}

/// The command that builds the linker into cargo's own directory.
pub(crate) fn install_linker() -> Command {
    let mut cargo = workspace::cargo();
    // Not into this workspace's target directory.
    cargo.env_remove("CARGO_TARGET_DIR");
    // Debian's LLVM is not on the PATH.
    cargo.env("LLVM_PREFIX", DEBIAN_LLVM);
    // The shared library of LLVM does the work, so an unoptimised linker is as fast and takes a
    // third of the time to build.
    for (setting, value) in [("OPT_LEVEL", "0"), ("LTO", "off"), ("DEBUG", "0")] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    cargo.args(["install", LINKER, "--version", LINKER_VERSION, "--locked"]);
    cargo.args(["--no-default-features", "--features", LINKER_FEATURE]);
    cargo
}

fn first_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// What to do on a machine where we cannot install one.
pub(crate) fn by_hand() -> String {
    format!(
        "install it by hand, one of:
  - Debian 12 or newer: apt-get install {packages}
    and then `cargo xtask setup` again for the rest
  - any system: rustup toolchain install nightly --component rust-src
    and bpf-linker on the PATH: https://github.com/aya-rs/bpf-linker#installation",
        packages = DEBIAN_PACKAGES.join(" ")
    )
}
