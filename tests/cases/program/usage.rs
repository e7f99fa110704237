//! Bad input: one clear line on standard error, and the documented exit code.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use tests::{Balance, Builder, Namespace, Outcome, ReservedPort, binary, listen, run, skip};

const USAGE: i32 = 64;
const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;
const SYSTEM: i32 = 71;
const CANNOT_CREATE: i32 = 73;

#[test]
fn bad_ports_are_usage_errors() {
    assert_refused(USAGE, &[], "port");
    for port in ["0", "65536", "99999999999999999999", "nosuchservice", "25abc", ""] {
        assert_refused(USAGE, &[port], port);
        assert_refused(USAGE, &[port, "127.0.0.1:9"], port);
    }
}

#[test]
fn bad_channels_are_usage_errors() {
    let port = ReservedPort::new();
    let port = port.port().to_string();
    for channel in [
        // No host.
        "",
        ":25",
        ":",
        "::16",
        "[]:25",
        // No such port.
        "127.0.0.1:65536",
        "127.0.0.1:nosuchservice",
        "127.0.0.1:25abc",
        // No maximum of connections.
        "127.0.0.1:25:many",
        "127.0.0.1:25:-1",
        "127.0.0.1::-1",
        "127.0.0.1:25:4x",
        "127.0.0.1:25:99999999999999999999",
        "[::1]:25:x",
        // No closing bracket.
        "[::1",
    ] {
        assert_refused(USAGE, &[&port, channel], channel);
        assert_refused(USAGE, &[&port, "127.0.0.1:9", "!", channel], channel);
    }
}

#[test]
fn bad_options_are_usage_errors() {
    let port = ReservedPort::new();
    let port = port.port().to_string();
    for option in ["--nosuchoption", "-Z"] {
        assert_refused(USAGE, &[option, &port, "127.0.0.1:9"], option);
    }
    for (option, value) in [
        ("-t", "0"),
        ("-t", "-1"),
        ("-t", "soon"),
        ("-t", ""),
        ("--datapath", "tcp"),
        ("--workers", "0"),
        ("--workers", "two"),
        ("--log-format", "xml"),
        ("--grace", "long"),
        ("--grace", "-1"),
        ("--max-connections", "few"),
        ("--max-connections", "-1"),
    ] {
        assert_refused(USAGE, &[option, value, &port, "127.0.0.1:9"], value);
        assert_refused(USAGE, &[&port, "127.0.0.1:9", option, value], value);
    }
    assert_refused(USAGE, &[&port, "127.0.0.1:9", "-t"], "-t");
}

#[test]
fn frequent_mistakes_get_the_line_that_corrects_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing").display().to_string();
    for (words, line) in [
        (&["25", "a:25:1:3"][..], "server a:25:1:3: 3: unexpected field, expected HOST:PORT:MAX"),
        (&["25", "2001:db8::1"], "[2001:db8::1] is how an IPv6 address is written here"),
        (&["25", "a,name=x", "b,name=x"], "name=x: another server has this name"),
        (&["25", "a,nme=x"], "server a,nme=x: unknown key nme, known are name, max"),
        (&["25", "--name", "7"], "--name 7: expected a name of letters, digits"),
        (
            &["-t", "5x", "25"],
            "expected a time from 1 to 86400 seconds, such as 30, 30s, 5m, 2h or 1d",
        ),
        (&["relaod"], "relaod: neither a port nor a verb, did you mean reload?"),
        (&["192.0.2.7", "25"], "to listen on an address: balance -b 192.0.2.7 25"),
    ] {
        assert_refused(USAGE, words, line);
    }
    let line = format!("--run-dir {missing}: no such directory");
    assert_refused(CANNOT_CREATE, &["-f", "--run-dir", &missing, "2525", "127.0.0.1:9"], &line);
    assert_refused(NO_INPUT, &["--run-dir", &missing, "-c", "show", "2525"], &line);
    assert!(!Path::new(&missing).exists());
}

#[test]
fn an_empty_group_is_unavailable() {
    let port = ReservedPort::new();
    let port = port.port().to_string();
    for operands in [&["!"][..], &["!", "127.0.0.1:9"], &["127.0.0.1:9", "!", "!", "127.0.0.1:9"]] {
        let words = [&[port.as_str()], operands].concat();
        assert_refused(UNAVAILABLE, &words, "no channels in group");
    }
}

#[test]
fn a_name_that_does_not_resolve_is_a_data_error() {
    let port = ReservedPort::new();
    let port = port.port().to_string();
    let name = "nosuchhost.invalid";
    for channel in [name, "nosuchhost.invalid:25", "nosuchhost.invalid::4"] {
        assert_refused(DATA, &[&port, channel], name);
        assert_refused(DATA, &[&port, "127.0.0.1:9", "!", channel], name);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = listen(([127, 0, 0, 1], 0).into());
    let address = taken.local_addr().expect("getsockname");
    assert_port_refused(address, &address.to_string());
}

#[test]
fn a_port_that_another_instance_serves_is_taken() {
    let first = Builder::auto().operand("127.0.0.1:9").start();
    assert_port_refused(first.address(), &first.address().to_string());
    serves(&first);
}

#[test]
fn a_port_that_another_instance_serves_on_all_addresses_is_taken() {
    let port = ReservedPort::at(Ipv6Addr::UNSPECIFIED.into());
    let first = Builder::auto().listen(port.address()).operand("127.0.0.1:9").start();
    assert_port_refused(port.address(), &port.port().to_string());
    serves(&first);
}

#[test]
fn an_ipv6_listener_is_refused_without_ipv6() {
    let host = match Namespace::new() {
        Ok(host) if Path::new("/proc/sys/net/ipv6").exists() => host,
        Ok(_) => return skip("no IPv6 here"),
        Err(error) => return skip(&format!("no network of its own: {error}")),
    };
    host.set("ipv6/conf/all/disable_ipv6", "1");
    host.enter(|| {
        assert_refused(
            SYSTEM,
            &["-f", "-6", "2525", "127.0.0.1:9"],
            "[::]:2525: this host has no IPv6",
        )
    });
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    // From a block for documentation (RFC 5737).
    let address: SocketAddr = ([192, 0, 2, 1], 2525).into();
    assert_port_refused(address, &address.to_string());
}

#[test]
fn service_names_stand_for_their_ports() {
    let Some(port) = service("http-alt") else {
        return skip("no service http-alt in /etc/services");
    };
    // A loopback address that only this process uses.
    let last = u8::try_from(std::process::id() % 250 + 2).expect("a small number");
    let balance = Builder::auto()
        .listen(([127, 77, 0, last], 0).into())
        .service("http-alt")
        .operand("127.0.0.1:http-alt")
        .operand("127.0.0.1:http-alt:7")
        .start();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("listener"), format!("127.77.0.{last}:{port}"));
    assert!(ready.text("groups").contains(&format!("127.0.0.1:{port}")), "{ready:?}");
    balance.stop();
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (option, word) in [("--help", "--datapath"), ("--version", "balance")] {
        let outcome = balance(&[option]);
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains(word), "{outcome:?}");
        assert_eq!(outcome.stderr, "");
    }
}

fn balance(words: &[&str]) -> Outcome {
    run(Command::new(binary()).args(words), Duration::from_secs(30))
}

/// Asserts that the program exits with `code` and prints one line that contains `naming`.
fn assert_refused(code: i32, words: &[&str], naming: &str) {
    let outcome = balance(words);
    check(&outcome, code, naming, &format!("{words:?}"));
}

/// Asserts that the program cannot listen on `address` and says so.
fn assert_port_refused(address: SocketAddr, naming: &str) {
    let (mut command, _, _) =
        Builder::auto().quiet().listen(address).operand("127.0.0.1:9").command();
    let outcome = run(&mut command, Duration::from_secs(30));
    check(&outcome, SYSTEM, naming, &address.to_string());
}

fn check(outcome: &Outcome, code: i32, naming: &str, what: &str) {
    assert_eq!(outcome.status.code(), Some(code), "{what}: {outcome:?}");
    assert_eq!(outcome.stdout, "", "{what}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{what}: {outcome:?}");
    assert!(outcome.stderr.starts_with("balance: "), "{what}: {outcome:?}");
    let output = outcome.stderr.to_lowercase();
    assert!(output.contains(&naming.to_lowercase()), "{what}: {outcome:?}");
}

/// Asserts that the instance that holds the port still serves.
fn serves(first: &Balance) {
    let mut client = tests::connect(first.address());
    // No server listens on its channel.
    assert_eq!(tests::end_of(&mut client), tests::End::Clean);
}

/// The port of a service in /etc/services.
fn service(name: &str) -> Option<u16> {
    let services = std::fs::read_to_string("/etc/services").ok()?;
    services.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let port = (words.next()? == name).then(|| words.next())??;
        port.strip_suffix("/tcp")?.parse().ok()
    })
}
