//! A kernel that loads the BPF programs but does not run them correctly is detected by the
//! self-test before any connection uses them. The relay serves in their place.
//!
//! The misbehaviour is faked from outside: a system call that claims success, or BTF that does not
//! describe the kernel.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use nix::libc;
use tests::{
    Builder, Datapath, Link, ReservedPort, TIMEOUT, WHOLE_CHUNKS, both_ways, kernel_works, run,
    skip,
};

/// Command of bpf(2) that attaches a program to a sockmap.
const BPF_PROG_ATTACH: i32 = 8;

const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Sockets enter the map, but the program never runs.
fn kernel_never_runs_the_program(builder: Builder) -> Builder {
    builder.with_fake_syscall(libc::SYS_bpf, BPF_PROG_ATTACH, 0)
}

/// The program reads a wrong field as the number of bytes read (copied_seq), and loses bytes.
fn kernel_has_a_layout_unlike_its_btf(builder: Builder) -> Builder {
    let mut types = fs::read(TYPES).expect("the kernel's type information");
    swap(&mut types, b"\0copied_seq\0", b"\0max_window\0");
    builder.with_file_content(TYPES, &types)
}

/// Also makes it impossible to attach the splice program.
fn without_splice(builder: Builder) -> Builder {
    builder.with_fake_syscall(libc::SYS_socket, libc::AF_NETLINK, libc::EAFNOSUPPORT)
}

fn sockmap_is_refused(misbehaving: fn(Builder) -> Builder) {
    let builder = misbehaving(Builder::new(Datapath::Sockmap).quiet()).operand("127.0.0.1:9");
    let (mut command, _port, _) = builder.command();
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    let expected = "balance: datapath sockmap does not work here: self-test failed: ";
    assert!(outcome.stderr.starts_with(expected), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

fn the_relay_serves(misbehaving: fn(Builder) -> Builder) {
    let builder = without_splice(misbehaving(Builder::auto()));
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    let ready = link.balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "relay", "{ready:?}");
    assert!(ready.text("reason").contains("no sockmap: self-test failed: "), "{ready:?}");
    carries(link, "relay");
}

/// A connection that cannot be spliced uses the relay, not the sockmap that failed its self-test.
fn the_relay_serves_beside_splice(misbehaving: fn(Builder) -> Builder) {
    let Ok(port) = ReservedPort::bind((Ipv6Addr::LOCALHOST, 0).into()) else {
        return skip("no IPv6 here");
    };
    let builder = misbehaving(Builder::auto()).listen(port.address()).offload_after(1);
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    let ready = link.balance.wait_for("ready");
    assert_eq!(ready.text("datapath"), "splice", "{ready:?}");
    assert!(ready.text("reason").contains("; no sockmap: self-test failed: "), "{ready:?}");
    carries(link, "relay");
}

/// Asserts that bytes pass, and that the log names this datapath.
fn carries(link: Link, datapath: &str) {
    let (client, server) = link.pair();
    both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
    drop((client, server));
    let session = &link.balance.sessions(1)[0];
    assert_eq!(session.datapath, datapath, "{session:?}");
}

/// Swaps two names of equal length.
fn swap(types: &mut [u8], one: &[u8], other: &[u8]) {
    let find = |name: &[u8]| {
        let mut places = types.windows(name.len());
        places.position(|place| place == name).expect("a name of a field")
    };
    let (a, b) = (find(one), find(other));
    types[a..a + one.len()].copy_from_slice(other);
    types[b..b + other.len()].copy_from_slice(one);
}

/// Makes the tests of each kind of misbehaviour.
macro_rules! tests_of_misbehaviour {
    ($($misbehaving:ident),+ $(,)?) => {$(
        mod $misbehaving {
            #[test]
            fn sockmap_is_refused() {
                if super::kernel_works() {
                    super::sockmap_is_refused(super::$misbehaving);
                }
            }

            #[test]
            fn the_relay_serves() {
                if super::kernel_works() {
                    super::the_relay_serves(super::$misbehaving);
                }
            }

            #[test]
            fn the_relay_serves_beside_splice() {
                if super::kernel_works() {
                    super::the_relay_serves_beside_splice(super::$misbehaving);
                }
            }
        }
    )+};
}

tests_of_misbehaviour!(kernel_never_runs_the_program, kernel_has_a_layout_unlike_its_btf);
