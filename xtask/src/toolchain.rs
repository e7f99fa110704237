//! The toolchains that can build the BPF programs: their versions, and which is installed.
//!
//! Invariant: a toolchain that `find` returns is complete and its parts fit each other. If there is
//! none, the error gives the reasons.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{exec::output, workspace};

/// Debian's compiler with `core` for the BPF target (the first two), and the build dependencies of
/// the linker.
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

/// Crates that use unstable features of the compiler.
const UNSTABLE_CRATES: &str = "aya_ebpf,balance_ebpf,splice";

const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
/// Must be the LLVM version of `DEBIAN_PACKAGES`.
const LINKER_FEATURE: &str = "llvm-22";

/// A compiler for the BPF target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compiler {
    /// rustup's nightly, which builds `core` for the target from source.
    Nightly,
    /// Debian's compiler, with a `core` package for the target.
    Debian,
}

/// A compiler and a matching linker.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// Returns the installed toolchain, or an error with the reasons why none is usable.
    pub(crate) fn find() -> Result<Self> {
        Self::with(Compiler::Nightly).or_else(|nightly| {
            Self::with(Compiler::Debian).map_err(|debian| {
                anyhow!("no toolchain for the BPF programs ({nightly:#}; {debian:#})")
            })
        })
    }

    fn with(compiler: Compiler) -> Result<Self> {
        let llvm = compiler.llvm().with_context(|| compiler.to_string())?;
        let linker = linker(llvm).with_context(|| compiler.to_string())?;
        Ok(Self { compiler, linker })
    }

    /// Returns true if the toolchain has clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        match self.compiler {
            Compiler::Nightly => output(nightly("cargo").args(["clippy", "--version"])).is_ok(),
            Compiler::Debian => false,
        }
    }

    /// Returns a cargo command that uses this toolchain.
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
    /// Returns the LLVM version of the compiler, or an error that says what is missing.
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
        llvm.and_then(first_number).with_context(|| format!("prints no LLVM version: {version}"))
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

/// Returns a command for a program of rustup's nightly, without the environment of the running
/// cargo.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command.args(["run", "nightly", program]);
    command
}

/// Returns the command that installs components of rustup's nightly.
pub(crate) fn add_to_nightly(components: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["component", "add", "--toolchain", "nightly"]).args(components);
    command
}

/// Returns a linker that reads the output of a compiler with this LLVM, or why there is none.
pub(crate) fn linker(llvm: u32) -> Result<PathBuf> {
    let mut why = anyhow!("{LINKER} is not installed");
    for linker in programs(LINKER) {
        match llvm_of_linker(&linker) {
            Err(error) => why = error,
            // A released linker contains its LLVM and does not report the version: trust it.
            Ok(None) => return Ok(linker),
            Ok(Some(own)) if own >= llvm => return Ok(linker),
            Ok(Some(own)) => {
                why = anyhow!(
                    "{} uses LLVM {own}, which cannot read the output of LLVM {llvm}",
                    linker.display()
                );
            }
        }
    }
    Err(why)
}

/// Returns all programs with this name on the PATH and in cargo's program directory.
pub(crate) fn programs(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let directories = env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin")));
    directories.map(|directory| directory.join(name)).filter(|program| program.is_file()).collect()
}

/// Returns the LLVM version that the linker loads, from the name of the library
/// (`libLLVM.so.22.1`), or `None` if the linker loads none.
fn llvm_of_linker(linker: &Path) -> Result<Option<u32>> {
    // ldd fails for a static program.
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

/// Returns the command that installs the linker into cargo's program directory.
pub(crate) fn install_linker() -> Command {
    let mut cargo = workspace::cargo();
    // Keep the build out of the workspace's target folder.
    cargo.env_remove("CARGO_TARGET_DIR");
    // Debian's LLVM is not on the PATH.
    cargo.env("LLVM_PREFIX", DEBIAN_LLVM);
    // LLVM's shared library does the work, so an unoptimised linker is as fast, and builds in a
    // third of the CPU time.
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

/// Returns instructions for a machine where xtask cannot install a toolchain.
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
