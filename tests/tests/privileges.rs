//! Without privileges the relay serves, and says why; the kernel's datapath is refused; with those of the
//! service's unit everything works.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Command, Stdio},
};

use tests::{
    Backend, Builder, Datapath, KillOnDrop, PATIENCE, ReservedPort, ask, binary, eventually,
    finish, is_listening, kernel_works, run,
};

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

/// What the unit gives to the service, as setpriv(1) takes it.
fn capabilities_of_the_unit() -> String {
    let path = "../balance-userspace/packaging/balance.service";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(path).expect("the unit");
    let line = text.lines().find_map(|line| line.strip_prefix("AmbientCapabilities="));
    let names = line.expect("its capabilities").split(' ');
    let names = names.map(|name| name.trim_start_matches("CAP_").to_lowercase());
    names.map(|name| format!("+{name}")).collect::<Vec<_>>().join(",")
}

#[test]
fn with_what_the_unit_gives_it_every_datapath_serves_and_root_may_command() {
    if !kernel_works() {
        return;
    }
    let (folder, _) = unprivileged(Builder::auto());
    let folder = folder.expect("we are root");
    let run_dir = folder.path().join("run");
    let server = Backend::greeter("A");
    for datapath in ["splice", "sockmap", "relay"] {
        let port = ReservedPort::new();
        fs::create_dir(&run_dir).expect("a folder");
        chown(&run_dir, Some(NOBODY), Some(NOBODY)).expect("chown");
        let config = folder.path().join("balance.conf");
        let line =
            format!("--datapath {datapath} -b 127.0.0.1 {} {}\n", port.port(), server.address());
        fs::write(&config, line).expect("writing a temporary file");
        let capabilities = capabilities_of_the_unit();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
        command.arg(format!("--bounding-set=-all,{capabilities}"));
        command.arg(format!("--inh-caps={capabilities}"));
        command.arg(format!("--ambient-caps={capabilities}"));
        command.arg(folder.path().join("balance")).args(["start", "-f", "--config"]).arg(&config);
        command.env("RUNTIME_DIRECTORY", &run_dir).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = KillOnDrop(command.spawn().expect("starting setpriv"));
        eventually(PATIENCE, "it listens", || match is_listening(port.port()) {
            true => Ok(()),
            false => Err("it does not".to_owned()),
        });
        assert_eq!(ask(port.address()).expect("an answer"), "A");
        let mut status = Command::new(binary());
        status.args(["status", "--json", "--run-dir"]).arg(&run_dir).arg("--config").arg(&config);
        let outcome = run(&mut status, PATIENCE);
        assert!(outcome.stdout.contains(&format!("\"datapath\": \"{datapath}\"")), "{outcome:?}");
        let mut stop = Command::new(binary());
        stop.args(["stop", "--run-dir"]).arg(&run_dir).arg("--config").arg(&config);
        assert_eq!(run(&mut stop, PATIENCE).stdout, "balance is stopped\n");
        assert_eq!(finish(&mut child.0, PATIENCE, "the service").code(), Some(0));
        fs::remove_dir_all(&run_dir).expect("removing a folder");
    }
}
