//! Embeds the BPF object, if `cargo xtask build-ebpf` has built one from the present sources.
//!
//! Invariant: an object that is older than its sources is never embedded. Without one the
//! build succeeds and the program has the relay only; it says so when it starts.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let object = root.join("target/ebpf/balance.o");
    let sources = root.join("balance-ebpf/src");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed={}", sources.display());
    match (modified(&object), newest(&sources)) {
        (Some(built), Some(changed)) if built >= changed => {
            println!("cargo::rustc-cfg=bpf_object");
            println!("cargo::rustc-env=BALANCE_BPF_OBJECT={}", object.display());
        }
        (Some(_), _) => warn("the BPF object is older than its sources"),
        (None, _) => warn("there is no BPF object"),
    }
}

fn warn(what: &str) {
    println!(
        "cargo::warning={what}: this build has the relay only; `cargo xtask build` makes a full one"
    );
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn newest(folder: &Path) -> Option<SystemTime> {
    fs::read_dir(folder).ok()?.filter_map(|entry| modified(&entry.ok()?.path())).max()
}
