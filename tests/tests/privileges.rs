//! Without privileges the relay serves, and says why; the kernel's datapath is refused.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use tests::{Backend, Builder, Datapath, PATIENCE, ask, binary, kernel_works, run};

/// The user `nobody`.
const NOBODY: u32 = 65534;

#[test]
fn without_privileges_the_relay_serves_and_says_why() {
    let (_folder, builder) = unprivileged(Builder::auto());
    let server = Backend::greeter("A");
    let balance = builder.channel(server.address()).start();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "relay", "{ready:?}");
    assert!(ready.text("why").len() > 5, "{ready:?}");
    assert_eq!(ask(balance.address()).expect("an answer"), "A");
    assert_eq!(balance.sessions(1)[0].datapath, "relay");
    balance.stop();
}

#[test]
fn without_privileges_the_kernel_path_is_refused_in_one_line() {
    for datapath in [Datapath::Sockmap, Datapath::Splice] {
        refused(datapath);
    }
}

fn refused(datapath: Datapath) {
    let (_folder, builder) = unprivileged(Builder::new(datapath));
    let (mut command, _port, _) = builder.operand("127.0.0.1:9").command();
    let outcome = run(&mut command, PATIENCE);
    assert_eq!(outcome.status.code(), Some(77), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("balance: "), "{outcome:?}");
    assert!(outcome.stderr.contains(datapath.name()), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn with_privileges_the_kernel_path_serves_by_itself() {
    if !kernel_works() {
        return;
    }
    let server = Backend::greeter("A");
    let balance = Builder::auto().channel(server.address()).start();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "splice", "{ready:?}");
    assert!(ready.text("why").len() > 5, "{ready:?}");
}

/// The same program as a user without any capability, who could not read root's own folders.
fn unprivileged(builder: Builder) -> (Option<tempfile::TempDir>, Builder) {
    if !nix::unistd::Uid::effective().is_root() {
        return (None, builder);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = folder.path().join("balance");
    // Not by ourselves: another test's child, just forked, would hold the copy open for writing,
    // and such a file cannot be run.
    let mut copy = Command::new("install");
    copy.args(["-m", "755"]).args([&binary(), &path]);
    let outcome = run(&mut copy, PATIENCE);
    assert!(outcome.status.success(), "{outcome:?}");
    (Some(folder), builder.binary(&path).user(NOBODY))
}
