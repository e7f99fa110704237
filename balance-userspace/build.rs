//! Embeds the BPF objects, if `cargo xtask build-ebpf` has built them from the current sources.
//!
//! Invariant: an object older than its sources is never embedded. Without the objects the build
//! succeeds, and the program has only the relay and logs that at the start.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The objects, one for each datapath in the kernel.
const OBJECTS: [&str; 2] = ["sockmap", "splice"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_objects)");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let sources = root.join("balance-ebpf/src");
    println!("cargo::rerun-if-changed={}", sources.display());
    let changed = newest(&sources);
    let mut oldest = Some(SystemTime::now());
    for name in OBJECTS {
        let object = root.join(format!("target/ebpf/{name}.o"));
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-env=BALANCE_BPF_{}={}", name.to_uppercase(), object.display());
        // Without the file this is `None`, which is less than any time.
        oldest = oldest.min(modified(&object));
    }
    match (oldest, changed) {
        (Some(built), Some(changed)) if built >= changed => {
            println!("cargo::rustc-cfg=bpf_objects");
        }
        (Some(_), _) => warn("a BPF object is older than its sources"),
        (None, _) => warn("a BPF object is missing"),
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

/// The latest change of a file below a folder.
fn newest(folder: &Path) -> Option<SystemTime> {
    let changed = fs::read_dir(folder).ok()?.flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() { newest(&path) } else { modified(&path) }
    });
    changed.max().flatten()
}
