//! Runs each property on its seeds and on random edits of the seeds.
//!
//! Invariant: every property has a test, a fuzz target and seeds.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

use super::{PROPERTIES, Property};
use crate::control::{
    protocol::{InstanceCommand, InstanceReply, SupervisorCommand, SupervisorReply},
    server::read_request,
};

/// A folder of the fuzz workspace.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz").join(name)
}

/// Names of the files in a folder.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder("seeds").join(name);
    let files = names_in(&folder).into_iter().map(|file| folder.join(file));
    let seeds: Vec<_> = files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect();
    assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
    seeds
}

/// Replaces `cut` bytes at `at` with the bytes `by`.
#[derive(Clone, Debug)]
struct Edit {
    at: Index,
    cut: usize,
    by: Vec<u8>,
}

/// Byte strings that have a meaning for some parser.
const TOKENS: [&[u8]; 24] = [
    b"\n",
    b"\0",
    b"\r",
    b"\t",
    b" ",
    b"\\",
    b"\"",
    b"'",
    b"#",
    b";",
    b":",
    b"[",
    b"]",
    b"!",
    b"%",
    b"{",
    b"}",
    b",",
    b"=",
    b"-",
    b"\x1b[2J",
    b"\xff",
    b"65536",
    b"\xc2\x9b",
];

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let token = prop::sample::select(&TOKENS[..]).prop_map(<[u8]>::to_vec);
    let by = prop_oneof![token, prop::collection::vec(any::<u8>(), 0..6)];
    let edit = (any::<Index>(), 0..9_usize, by).prop_map(|(at, cut, by)| Edit { at, cut, by });
    prop::collection::vec(edit, 0..8)
}

fn edited(seed: &[u8], edits: &[Edit]) -> Vec<u8> {
    edits.iter().fold(seed.to_vec(), |mut bytes, Edit { at, cut, by }| {
        let at = at.index(bytes.len() + 1);
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, by.iter().copied());
        bytes
    })
}

fn check(property: Property, name: &str) {
    let seeds = seeds(name);
    for (file, seed) in &seeds {
        let held = std::panic::catch_unwind(|| property(seed));
        assert!(held.is_ok(), "the property does not hold for {}", file.display());
    }
    // Add a failing case as a seed, with a descriptive name.
    let config = Config { failure_persistence: None, ..Config::default() };
    let chosen = (any::<Index>(), edits());
    let inputs = chosen.prop_map(|(seed, edits)| edited(&seed.get(&seeds).1, &edits));
    TestRunner::new(config)
        .run(&inputs, |bytes| {
            property(&bytes);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

macro_rules! on_seeds {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                check(super::$name, stringify!($name));
            }
        )+

        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

on_seeds!(
    btf,
    channel_arguments,
    command_line,
    configuration,
    control_reply,
    control_request,
    dump,
    rtnetlink,
    run_dir_names,
    shell_command,
    splice_decision,
    supervisor_messages,
    tcp_options,
);

#[test]
fn every_property_has_a_test_a_fuzz_target_and_seeds() {
    let names = || PROPERTIES.iter().map(|(name, _)| (*name).to_owned());
    assert!(names().eq(TESTED.iter().map(|name| (*name).to_owned())));
    let fuzzers = names().map(|name| name + ".rs").collect::<BTreeSet<_>>();
    assert_eq!(names_in(&folder("fuzz_targets")), fuzzers);
    assert_eq!(names_in(&folder("seeds")), names().collect());
}

/// Seeds for requests that the server rejects.
const REJECTED: [&str; 4] = ["deep", "escape", "other-version", "unknown"];

#[test]
fn seeds_of_the_control_protocol_are_of_the_current_version() {
    for (file, seed) in seeds("control_request") {
        let instance = read_request::<InstanceCommand>(&seed).is_ok();
        let parses = instance || read_request::<SupervisorCommand>(&seed).is_ok();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(parses, !REJECTED.contains(&name), "{}", file.display());
    }
    for (file, seed) in seeds("control_reply") {
        let instance = serde_json::from_slice::<InstanceReply>(&seed).is_ok();
        let parses = instance || serde_json::from_slice::<SupervisorReply>(&seed).is_ok();
        assert!(parses, "{}", file.display());
    }
}
