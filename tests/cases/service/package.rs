//! The Debian package: checks by Debian's own tools, and installation and removal in a container
//! without leftover files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{Root, note, package, run, unpacked};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum exposure in `systemd-analyze security`; 10 is a service without restrictions.
const MAX_EXPOSURE: f64 = 2.0;

const UNITS: [&str; 2] = ["balance.service", "balance@.service"];

/// Exit codes of `status` (LSB init scripts).
const RUNS: i32 = 0;
const STOPPED: i32 = 3;

/// EX_CONFIG of sysexits(3).
const MISTAKE: i32 = 78;

/// Files that the user management tools leave: a lock and backups.
const LEFT_BY_OTHERS: [&str; 3] = ["run/adduser", "etc/shadow-", "etc/gshadow-"];

#[test]
fn lintian_finds_no_error() {
    let Some(package) = package() else { return };
    let mut lintian = Command::new("lintian");
    let outcome = run(lintian.args(["--fail-on", "error"]).arg(package), COMMAND_TIMEOUT);
    note(&outcome.stdout);
    assert!(outcome.status.success(), "{outcome:?}");
}

#[test]
fn systemd_accepts_the_units() {
    let Some(files) = unpacked() else { return };
    let files = files.path();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for unit in UNITS {
        // The program and its man pages are not installed here, so the unit refers to the unpacked
        // files.
        let text = fs::read_to_string(files.join("usr/lib/systemd/system").join(unit));
        let text =
            text.expect("a unit").replace("=/usr/sbin", &format!("={}/usr/sbin", files.display()));
        let copy = folder.path().join(unit);
        fs::write(&copy, text).expect("writing a unit");
        let mut analyze = Command::new("systemd-analyze");
        analyze.arg("verify").arg(&copy).env("MANPATH", files.join("usr/share/man"));
        let outcome = run(&mut analyze, COMMAND_TIMEOUT);
        assert!(outcome.status.success() && outcome.stderr.is_empty(), "{unit}: {outcome:?}");

        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=yes", "--no-pager"]).arg(&copy);
        let outcome = run(&mut analyze, COMMAND_TIMEOUT);
        let verdict = outcome.stdout.lines().rfind(|line| line.contains("exposure level"));
        let verdict = verdict.unwrap_or_else(|| panic!("{unit}: {outcome:?}"));
        note(verdict);
        let exposure = verdict.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next());
        let exposure: f64 = exposure.and_then(|n| n.parse().ok()).expect("a number");
        assert!(exposure <= MAX_EXPOSURE, "{verdict}");
    }
}

#[test]
fn man_pages_have_no_warnings() {
    let Some(files) = unpacked() else { return };
    for (page, expected) in [
        ("man8/balance.8.gz", "Spliced"),
        ("man1/balance.1.gz", "Spliced"),
        ("man5/balance.conf.5.gz", "patterns"),
    ] {
        let mut man = Command::new("man");
        man.args(["--warnings", "-EUTF-8", "-Tutf8", "-l"]);
        man.arg(files.path().join("usr/share/man").join(page)).env("LC_ALL", "C.UTF-8");
        let outcome = run(&mut man, COMMAND_TIMEOUT);
        assert!(outcome.status.success(), "{page}: {}", outcome.stderr);
        assert_eq!(outcome.stderr, "", "{page}");
        assert!(outcome.stdout.contains(expected), "{page} lacks {expected}");
    }
}

#[test]
fn the_package_installs_and_purges_without_leftovers() {
    let (Some(package), Some(root)) = (package(), Root::unpack()) else { return };
    let (files, users) = (root.files(), users(&root));
    root.install(&package);
    root.ends_with(0, "getent passwd balance");
    root.ends_with(0, "balance --version");
    root.ends_with(0, "dpkg --audit");

    // The installed configuration has no instance.
    root.ends_with(STOPPED, "service balance status");
    root.ends_with(0, "balance check --strict");
    root.ends_with(0, "test -z \"$(balance check --print)\"");
    root.ends_with(0, "update-rc.d balance defaults");
    root.ends_with(0, "ls /etc/rc2.d/S*balance /etc/rc0.d/K*balance");
    root.ends_with(0, "service balance stop");
    root.ends_with(0, "service balance start");
    root.ends_with(RUNS, "service balance status");
    root.ends_with(0, "service balance stop");
    root.ends_with(STOPPED, "service balance status");
    root.ends_with(0, "service balance start");

    root.write("/etc/balance/conf.d/one.conf", "2526 127.0.0.1:9\n");
    root.ends_with(0, "service balance reload");
    root.ends_with(0, "balance status | grep -q '^2526 *running'");

    // Also removes the files of another configuration.
    root.write("/etc/balance/other.conf", "2525 127.0.0.1:9\n");
    root.ends_with(0, "balance start --config /etc/balance/other.conf");
    root.ends_with(0, "balance stop --config /etc/balance/other.conf");
    root.ends_with(0, "dpkg --remove balance");
    root.ends_with(0, "test -e /etc/balance/balance.conf");
    root.ends_with(0, "! pidof balance");
    root.ends_with(0, "dpkg --purge balance");
    let mut left: Vec<PathBuf> = root.files().difference(&files).cloned().collect();
    left.retain(|path| !LEFT_BY_OTHERS.iter().any(|other| path == Path::new(other)));
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(users, self::users(&root));
}

#[test]
fn an_upgrade_of_the_package_upgrades_the_service_unless_its_file_has_a_mistake() {
    let (Some(package), Some(root)) = (package(), Root::unpack()) else { return };
    root.install(&package);
    root.write("/etc/balance/balance.conf", "2525 127.0.0.1:9\n");
    root.ends_with(0, "service balance start");
    // Another file, whose supervisor was started by hand.
    root.write("/etc/balance/other.conf", "2526 127.0.0.1:9\n");
    root.ends_with(0, "balance start --config /etc/balance/other.conf");
    let supervisors = "cat /run/balance/conf.*.pid";
    let before = (root.ends_with(0, supervisors), root.ends_with(0, "pidof balance"));

    // A mistake: the program that runs continues.
    root.write("/etc/balance/balance.conf", "2525 127.0.0.1:9\nnosuchport\n");
    root.write("/etc/balance/other.conf", "nosuchport\n");
    root.ends_with(MISTAKE, "service balance reload");
    let output = root.install(&package);
    for file in ["balance.conf:2: ", "other.conf:1: "] {
        assert!(output.contains(file), "{output}");
    }
    assert_eq!(output.matches("balance is not upgraded\n").count(), 2, "{output}");
    assert_eq!(output.matches("the old program continues").count(), 2, "{output}");
    assert_eq!((root.ends_with(0, supervisors), root.ends_with(0, "pidof balance")), before);

    root.write("/etc/balance/balance.conf", "2525 127.0.0.1:9\n");
    root.write("/etc/balance/other.conf", "2526 127.0.0.1:9\n");

    // The administrator forbids restarts.
    root.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
    let output = root.install(&package);
    assert!(!output.contains("upgraded"), "{output}");
    assert_eq!((root.ends_with(0, supervisors), root.ends_with(0, "pidof balance")), before);
    root.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n");

    let output = root.install(&package);
    assert_eq!(output.matches("balance is upgraded: version ").count(), 2, "{output}");
    root.ends_with(RUNS, "service balance status");
    root.ends_with(RUNS, "balance status --config /etc/balance/other.conf");
    assert_eq!(root.ends_with(0, supervisors), before.0);
    assert_ne!(root.ends_with(0, "pidof balance"), before.1);
    root.ends_with(
        0,
        "for pid in $(cat /run/balance/conf.*.pid); do \
                        test /proc/$pid/exe -ef /usr/sbin/balance || exit 1; done",
    );

    let output = root.ends_with(0, "service balance upgrade");
    assert!(output.contains("balance is upgraded: version "), "{output}");
    root.ends_with(0, "dpkg --purge balance");
    root.ends_with(0, "! pidof balance");
}

/// Users and groups of the container.
fn users(root: &Root) -> Vec<String> {
    let mut lines = Vec::new();
    for file in ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"] {
        let text = fs::read_to_string(root.path().join(Path::new(file))).expect("a list of users");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}
