//! Where things are in the workspace.
//!
//! Invariant: everything is built into `target/` of the checkout, wherever a task is called
//! from and whatever CARGO_TARGET_DIR says, because balance-userspace looks for the BPF object
//! there and the manual names the program there.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}

/// The sources of the BPF program.
pub(crate) fn ebpf_sources() -> PathBuf {
    root().join("balance-ebpf")
}

/// The package of the tests that drive the finished program.
pub(crate) fn tests() -> PathBuf {
    root().join("tests")
}

/// Where the BPF program is built, apart from the rest: its compiler may be another one.
pub(crate) fn ebpf_target() -> PathBuf {
    target().join("ebpf")
}

/// What is built for Miri.
pub(crate) fn miri_target() -> PathBuf {
    target().join("miri")
}

/// What is built with a sanitizer.
pub(crate) fn sanitizer_target() -> PathBuf {
    target().join("sanitizer")
}

/// The BPF object that balance-userspace embeds.
pub(crate) fn ebpf_object(name: &str) -> PathBuf {
    ebpf_target().join(format!("{name}.o"))
}

/// The finished program.
pub(crate) fn program() -> PathBuf {
    target().join("release/balance")
}

/// The program built without optimisation.
pub(crate) fn quick_program() -> PathBuf {
    target().join("debug/balance")
}

/// What is given to others.
pub(crate) fn dist() -> PathBuf {
    target().join("dist")
}

/// An unpacked system that the package is installed in, as an archive.
pub(crate) fn base_system(release: &str) -> PathBuf {
    target().join(format!("base-system/{release}.tar"))
}

/// Kernels and what virtual machines boot with them, by version.
pub(crate) fn kernels() -> PathBuf {
    target().join("kernels")
}

/// The log of something that does not write to the terminal, in a folder that is there.
pub(crate) fn log(name: &str) -> io::Result<PathBuf> {
    let folder = target().join("logs");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// The cargo that runs this task, for a command of its own in this workspace.
pub(crate) fn cargo() -> Command {
    in_workspace(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that runs cargo, for the same.
pub(crate) fn in_workspace(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    command
}

/// Where everything is built.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}
