//! Without privileges the relay serves and the log says why; a kernel datapath is refused. With the
//! capabilities of the systemd unit every datapath works.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tests::{
    Backend, Builder, Datapath, Family, KillOnDrop, Link, NOBODY, Network, ReservedPort, RunDir,
    Service, TIMEOUT, Topology, WHOLE_CHUNKS, ask, binary, both_ways, connect, eventually,
    exchange, finish, has_tcx, is_listening, kernel_works, run, skip,
};

#[test]
fn without_privileges_the_relay_serves_and_the_log_says_why() {
    let (_folder, builder) = unprivileged(Builder::auto());
    let server = Backend::greeter("A");
    let balance = builder.channel(server.address()).start();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "relay", "{ready:?}");
    assert!(ready.text("reason").len() > 5, "{ready:?}");
    assert_eq!(ask(balance.address()).expect("an answer"), "A");
    assert_eq!(balance.sessions(1)[0].datapath, "relay");
    balance.stop();
}

#[test]
fn without_privileges_a_kernel_datapath_is_refused_in_one_line() {
    for datapath in [Datapath::Sockmap, Datapath::Splice] {
        refused(datapath);
    }
}

fn refused(datapath: Datapath) {
    let (_folder, builder) = unprivileged(Builder::new(datapath));
    let (mut command, _port, _) = builder.operand("127.0.0.1:9").command();
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(77), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("balance: "), "{outcome:?}");
    assert!(outcome.stderr.contains(datapath.name()), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn with_privileges_splice_is_the_default() {
    if !kernel_works() {
        return;
    }
    let server = Backend::greeter("A");
    let balance = Builder::auto().channel(server.address()).start();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "splice", "{ready:?}");
    assert!(ready.text("reason").len() > 5, "{ready:?}");
}

/// Makes the program run as a user without capabilities.
fn unprivileged(builder: Builder) -> (Option<tempfile::TempDir>, Builder) {
    match readable(builder) {
        (Some(folder), builder) => (Some(folder), builder.user(NOBODY)),
        ours => ours,
    }
}

/// Makes the program run from a copy that any user can read.
fn readable(builder: Builder) -> (Option<tempfile::TempDir>, Builder) {
    if !nix::unistd::Uid::effective().is_root() {
        return (None, builder);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = folder.path().join("balance");
    // A copy by this process could be inherited by a child of another test between fork and exec;
    // the copy would then be open for writing and could not be executed (ETXTBSY).
    let mut copy = Command::new("install");
    copy.args(["-m", "755"]).args([&binary(), &path]);
    let outcome = run(&mut copy, TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
    (Some(folder), builder.binary(&path))
}

/// The capabilities of the unit in the format of setpriv(1).
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
fn with_the_capabilities_of_the_unit_every_datapath_serves() {
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
        eventually(TIMEOUT, "the program listens", || match is_listening(port.port()) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        assert_eq!(ask(port.address()).expect("an answer"), "A");
        let mut status = Command::new(binary());
        status.args(["status", "--json", "--run-dir"]).arg(&run_dir).arg("--config").arg(&config);
        eventually(TIMEOUT, "status shows the datapath and no connection", || {
            let outcome = run(&mut status, TIMEOUT);
            let has = |field: &str| outcome.stdout.contains(field);
            let is_so = has(&format!("\"datapath\": \"{datapath}\"")) && has("\"connections\": 0");
            if is_so { Ok(()) } else { Err(format!("{outcome:?}")) }
        });
        let mut stop = Command::new(binary());
        stop.args(["stop", "--run-dir"]).arg(&run_dir).arg("--config").arg(&config);
        assert_eq!(run(&mut stop, TIMEOUT).stdout, "balance is stopped\n");
        assert_eq!(finish(&mut child.0, TIMEOUT, "the service").code(), Some(0));
        fs::remove_dir_all(&run_dir).expect("removing a folder");
    }
}

/// Bits of capabilities, include/uapi/linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;
const BPF: u64 = 1 << 39;

#[test]
fn as_another_user_the_program_keeps_only_what_its_datapath_needs() {
    if !kernel_works() {
        return;
    }
    for (datapath, keeps) in [
        (Datapath::Relay, 0),
        (Datapath::Sockmap, NET_ADMIN | BPF),
        (Datapath::Splice, NET_ADMIN | BPF),
    ] {
        let dir = RunDir::new();
        let builder = dir.use_in(Builder::new(datapath)).option(&["--user", "nobody"]);
        let mut link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
        assert_keeps(&link, datapath, keeps);
        for status in statuses(&link) {
            assert_eq!(field(&status, "CapBnd:"), format!("{keeps:016x}"), "{datapath:?}");
        }
        // Connections are still offloaded, root may send commands, and the program stops cleanly.
        let (client, server) = link.settled_pair();
        both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
        assert_eq!(dir.show(link.balance.address()).len(), 1);
        drop((client, server));
        link.balance.assert_all_handed_over(1);
        link.balance.signal(Signal::SIGTERM);
        link.balance.wait_stopped(TIMEOUT);
    }
}

/// A packet that is reinjected for other filters costs as much as the packet itself.
#[test]
fn as_another_user_the_program_reinjects_no_packet_when_alone_on_loopback() {
    const EXCHANGES: u64 = 500;
    if !kernel_works() {
        return;
    }
    if !has_tcx() {
        return skip("the kernel cannot list the programs of an interface");
    }
    let Some(network) = Network::new(Topology::ServerOnLoopback, Family::V4) else { return };
    let builder = Builder::new(Datapath::Splice).option(&["--user", "nobody"]);
    let link = Link::across(network, builder);
    let listen_address = link.balance.address();
    let (mut client, mut server) =
        link.settle(link.network().balancer().enter(|| connect(listen_address)));
    let before = arrived_on_loopback(&link);
    for _ in 0..EXCHANGES {
        exchange(&mut client, &mut server);
    }
    let arrived = arrived_on_loopback(&link) - before;
    assert!(arrived < 3 * EXCHANGES, "{arrived} packets for {EXCHANGES} bytes each way");
    drop((client, server));
    link.balance.assert_all_handed_over(1);
}

/// Packets received so far on the loopback of the program's host.
fn arrived_on_loopback(link: &Link) -> u64 {
    let path = format!("/proc/{}/net/dev", link.balance.process().0);
    let text = fs::read_to_string(path).expect("the interfaces of its host");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1));
    packets.and_then(|packets| packets.parse().ok()).expect("a number of packets")
}

/// A field of a thread's status.
fn field(status: &Path, name: &str) -> String {
    let text = fs::read_to_string(status).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

/// The status files of all threads of the program.
fn statuses(link: &Link) -> Vec<PathBuf> {
    let tasks = format!("/proc/{}/task", link.balance.process().0);
    let tasks = fs::read_dir(tasks).expect("its threads").flatten();
    let statuses: Vec<_> = tasks.map(|task| task.path().join("status")).collect();
    assert!(statuses.len() > 1, "{statuses:?}");
    statuses
}

/// Asserts that every thread runs as `nobody` with exactly these capabilities.
fn assert_keeps(link: &Link, datapath: Datapath, keeps: u64) {
    for status in statuses(link) {
        let field = |name| field(&status, name);
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534", "{datapath:?}");
        assert_eq!(field("Gid:"), "65534\t65534\t65534\t65534", "{datapath:?}");
        assert_eq!(field("NoNewPrivs:"), "1");
        for (set, expected) in
            [("CapEff:", keeps), ("CapPrm:", keeps), ("CapInh:", 0), ("CapAmb:", 0)]
        {
            assert_eq!(field(set), format!("{expected:016x}"), "{set} {datapath:?}");
        }
    }
}

#[test]
fn as_the_user_that_it_already_is_the_program_keeps_no_more() {
    if !kernel_works() {
        return;
    }
    let capabilities = capabilities_of_the_unit();
    for (datapath, keeps) in [(Datapath::Relay, 0), (Datapath::Splice, NET_ADMIN | BPF)] {
        let builder = Builder::new(datapath).option(&["--user", "nobody"]);
        // The user must be able to read the program.
        let (_folder, builder) = readable(builder);
        let builder = builder
            .wrapped_by(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .wrapped_by(
                ["--inh-caps", "--ambient-caps"].map(|set| format!("{set}={capabilities}")),
            );
        let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
        assert_keeps(&link, datapath, keeps);
        let (client, server) = link.settled_pair();
        both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
        drop((client, server));
        link.balance.assert_all_handed_over(1);
    }
}

#[test]
fn an_unknown_or_impossible_user_is_an_error() {
    let give = |builder: Builder, user: &str| {
        let builder = builder.option(&["--user", user]).operand("127.0.0.1:9");
        let (mut command, _port, _) = builder.command();
        let outcome = run(&mut command, TIMEOUT);
        (outcome.status.code(), outcome.stderr)
    };
    let nobody = (Some(67), "balance: there is no user nosuchuser\n".to_owned());
    assert_eq!(give(Builder::auto().quiet(), "nosuchuser"), nobody);
    let (_folder, builder) = unprivileged(Builder::new(Datapath::Relay).quiet());
    let (code, output) = give(builder, "daemon");
    assert_eq!(code, Some(77), "{output}");
    assert!(
        output.ends_with(
            "balance: cannot become user daemon: Operation not permitted (os error 1)\n"
        ),
        "{output}"
    );
}

#[test]
fn under_a_supervisor_another_user_leaves_no_files() {
    if !kernel_works() {
        return;
    }
    let (server, port) = (Backend::greeter("A"), ReservedPort::new());
    let line = format!("--user nobody -b 127.0.0.1 {} {}\n", port.port(), server.address());
    let service = Service::new(&line);
    assert_eq!(service.run_ok(&["start"]), "balance is started: 1 instance\n");
    assert_eq!(ask(port.address()).expect("an answer"), "A");
    service.write(&line.replace("--user", "-t 2 --user"));
    assert!(service.run_ok(&["reload"]).contains(": changed\n"));
    service.run_ok(&["stop"]);
    let left = fs::read_dir(service.run_dir()).expect("the run directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
}
