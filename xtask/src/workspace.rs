//! Paths in the workspace.
//!
//! Invariant: everything is built into `target/` of the checkout, independent of the working
//! directory and of CARGO_TARGET_DIR. The build script of balance-userspace looks there for the BPF
//! object files, and the manual names the program there.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Returns the root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}

/// Returns the directory of the BPF programs' sources.
pub(crate) fn ebpf_sources() -> PathBuf {
    root().join("balance-ebpf")
}

/// Returns the directory of the package with the tests that drive the finished program.
pub(crate) fn tests() -> PathBuf {
    root().join("tests")
}

/// Returns the target folder of the BPF programs, whose compiler may be a different one.
pub(crate) fn ebpf_target() -> PathBuf {
    target().join("ebpf")
}

/// Returns the target folder of Miri.
pub(crate) fn miri_target() -> PathBuf {
    target().join("miri")
}

/// Returns the target folder of builds with a sanitizer.
pub(crate) fn sanitizer_target() -> PathBuf {
    target().join("sanitizer")
}

/// Returns a BPF object file that balance-userspace embeds.
pub(crate) fn ebpf_object(name: &str) -> PathBuf {
    ebpf_target().join(format!("{name}.o"))
}

/// Returns the finished program.
pub(crate) fn program() -> PathBuf {
    target().join("release/balance")
}

/// Returns the program built without optimisation.
pub(crate) fn quick_program() -> PathBuf {
    target().join("debug/balance")
}

/// Returns the directory of files for distribution.
pub(crate) fn dist() -> PathBuf {
    target().join("dist")
}

/// Returns an archive of a minimal system in which the package is tested.
pub(crate) fn base_system(name: &str) -> PathBuf {
    target().join("base-system").join(name)
}

/// Returns the directory of virtual machine images with the service manager.
pub(crate) fn systemd() -> PathBuf {
    target().join("systemd")
}

/// Returns the directory of kernels and virtual machine images.
pub(crate) fn kernels() -> PathBuf {
    target().join("kernels")
}

/// Returns a log file for output that is not shown at once. Creates the directory.
pub(crate) fn log(name: &str) -> io::Result<PathBuf> {
    let folder = target().join("logs");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// Returns a command for the running cargo, in this workspace.
pub(crate) fn cargo() -> Command {
    in_workspace(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns a command for a program that runs cargo in this workspace.
pub(crate) fn in_workspace(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    command
}

/// Returns the target folder.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}
