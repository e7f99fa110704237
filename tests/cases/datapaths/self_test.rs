//! A kernel that takes the programs and does not do what they say is found out before anything is
//! served on it, and the relay serves instead.
//!
//! What a kernel gets wrong is done to the program from outside: a system call that says it has been
//! done, or type information that is not that of the kernel.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use nix::libc;
use tests::{
    Builder, Datapath, Link, ReservedPort, TIMEOUT, WHOLE_CHUNKS, both_ways, kernel_works, run,
    skip,
};

/// Of bpf(2): attaches a program to a map of sockets.
const BPF_PROG_ATTACH: i32 = 8;

const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Sockets go into the map, and what arrives at them passes by the program.
fn takes_the_program_and_never_runs_it(builder: Builder) -> Builder {
    builder.with_fake_syscall(libc::SYS_bpf, BPF_PROG_ATTACH, 0)
}

/// The program takes another number for that of the bytes which have been read, and loses some.
fn has_another_layout_than_it_says(builder: Builder) -> Builder {
    let mut types = fs::read(TYPES).expect("the kernel's type information");
    swap(&mut types, b"\0copied_seq\0", b"\0max_window\0");
    builder.with_file_content(TYPES, &types)
}

/// Nor does it let anybody attach the program of the splice datapath.
fn without_splice(builder: Builder) -> Builder {
    builder.with_fake_syscall(libc::SYS_socket, libc::AF_NETLINK, libc::EAFNOSUPPORT)
}

fn sockmap_is_refused(misbehaving: fn(Builder) -> Builder) {
    let builder = misbehaving(Builder::new(Datapath::Sockmap).quiet()).operand("127.0.0.1:9");
    let (mut command, _port, _) = builder.command();
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    let said = "balance: datapath sockmap does not work here: self-test failed: ";
    assert!(outcome.stderr.starts_with(said), "{outcome:?}");
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

/// What cannot be spliced takes the relay, not the datapath that does not work.
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

/// Bytes pass through it, and it says on which datapath.
fn carries(link: Link, datapath: &str) {
    let (client, server) = link.pair();
    both_ways(&client, &server, (4 << 20, 4 << 20), WHOLE_CHUNKS);
    drop((client, server));
    let session = &link.balance.sessions(1)[0];
    assert_eq!(session.datapath, datapath, "{session:?}");
}

/// Has two names of the same length mean each other.
fn swap(types: &mut [u8], one: &[u8], other: &[u8]) {
    let find = |name: &[u8]| {
        let mut places = types.windows(name.len());
        places.position(|place| place == name).expect("a name of a field")
    };
    let (a, b) = (find(one), find(other));
    types[a..a + one.len()].copy_from_slice(other);
    types[b..b + other.len()].copy_from_slice(one);
}

/// For each way to misbehave, what is to come of it.
macro_rules! where_sockmap {
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

where_sockmap!(takes_the_program_and_never_runs_it, has_another_layout_than_it_says);
