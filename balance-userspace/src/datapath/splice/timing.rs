//! How long the program takes for a packet, as the kernel measures it (BPF_PROG_TEST_RUN).
//!
//! Invariant: each run ends with the packet as it was two turns before. What the program makes of
//! it belongs to the other side of the same splice, so one packet can be judged any number of times.

use std::{net::SocketAddr, sync::Arc};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use balance_ebpf::{
    names,
    splice::{Evidence, LOOPBACK, Side, Splice, Way, head, phase},
};

use super::{kernel::Kernel, tuple::Tuple};
use crate::datapath::offload::object::program;

/// Packets of one measurement, and measurements of which the shortest counts.
const PACKETS: u32 = 100_000;
const TURNS: usize = 10;

/// TC_ACT_SHOT.
const DROPPED: u32 = 2;

#[test]
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
#[ignore = "measures: sudo -E cargo test --release -p balance-userspace --lib timing -- --ignored --nocapture"]
fn nanoseconds_for_a_packet() {
    let kernel = Arc::new(Kernel::load(16, false).expect("loading the program"));
    for (name, from, to) in [
        ("IPv4, one address", "127.0.0.1", "127.0.0.1"),
        ("IPv4, other addresses", "127.0.0.2", "127.0.0.3"),
        ("IPv6, one address", "::1", "::1"),
        ("IPv6, other addresses", "::1", "::2"),
    ] {
        let at = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
        let paths = [
            Tuple { peer: at(from, 1001), own: at(from, 1002) },
            Tuple { peer: at(to, 1003), own: at(to, 1004) },
        ];
        let keys = paths.map(|path| path.arriving());
        // More than the packet has is on its way, and none of it acknowledged.
        let sent = Evidence::new(1, 1 << 20);
        let side =
            Side { sent, settled: 1, stamped: 2, scale_in: 7, scale_out: 7, ..Side::default() };
        let way = |this: usize| Way {
            side,
            looks: keys[1 - this],
            addresses: keys[this].difference(&keys[1 - this]),
            out: LOOPBACK,
            head: head(64, 0),
            ..Way::default()
        };
        let splice = Splice { phase: phase::JOINED, ways: [way(0), way(1)], ..Splice::default() };
        let slot = kernel.enter(paths, splice).expect("a slot");
        // Whatever the routes say.
        slot.fill(splice);
        for payload in [0, 64, 1400] {
            let packet = packet(paths[0], payload);
            let took = kernel.devices().with_object(|object| {
                let program: &mut SchedClassifier =
                    program(object, names::SPLICE).expect("the program");
                let run = || {
                    let options = TestRunOptions {
                        data_in: Some(&packet),
                        repeat: PACKETS,
                        ..TestRunOptions::new()
                    };
                    let result = program.test_run(options).expect("running the program");
                    assert_ne!(result.return_value, DROPPED, "a packet was dropped");
                    result.duration.as_nanos()
                };
                (0..TURNS).map(|_| run()).min().expect("turns")
            });
            println!("{name}, {payload} bytes: {took} ns");
        }
        let packets: u64 = slot.read().ways.iter().map(|way| way.packets).sum();
        assert_eq!(packets, 3 * TURNS as u64 * u64::from(PACKETS), "packets that were passed on");
    }
}

/// A frame with a segment that has timestamps. The checksum of IPv4, which the program only mends, is wrong.
fn packet(path: Tuple, payload: usize) -> Vec<u8> {
    let (tcp, mut frame) = (32 + payload, vec![0; 12]);
    match (path.peer, path.own) {
        (SocketAddr::V4(peer), SocketAddr::V4(own)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + tcp as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(peer.ip().octets());
            frame.extend(own.ip().octets());
        }
        (SocketAddr::V6(peer), SocketAddr::V6(own)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(peer.ip().octets());
            frame.extend(own.ip().octets());
        }
        _ => unreachable!("both are of one family"),
    }
    frame.extend(path.peer.port().to_be_bytes());
    frame.extend(path.own.port().to_be_bytes());
    // SequenceNumbers; header of eight words; ACK; window; no urgent data; timestamps.
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 8 << 4, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    frame.resize(frame.len() + payload, 7);
    let segment = frame.len() - tcp;
    let addresses = if path.peer.is_ipv4() { 8 } else { 32 };
    let length = (tcp as u16).to_be_bytes();
    let sum = checksum([&[0, 6], &length, &frame[segment - addresses..]].concat());
    frame[segment + 16..segment + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The checksum of RFC 1071 over an even number of bytes.
fn checksum(bytes: Vec<u8>) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
