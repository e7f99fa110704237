//! Measures the program's time for a packet, by the kernel's clock (BPF_PROG_TEST_RUN).
//!
//! Invariant: two runs restore the packet. The packet that the program makes of it belongs to the
//! other side of the same splice, so the program can process one packet any number of times.

use std::{net::SocketAddr, sync::Arc};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use balance_ebpf::{
    names,
    splice::{
        DirectionState, LOOPBACK, Phase, SenderState, SideState, Splice, Timestamps, hop_limit_dscp,
    },
};

use super::{kernel::Kernel, tuple::Tuple};
use crate::datapath::{
    offload::object::program,
    side::{PerSide, Side},
};

/// Packets of one measurement.
const PACKETS: u32 = 100_000;

/// Measurements, of which the shortest counts.
const MEASUREMENTS: usize = 10;

/// TC_ACT_SHOT.
const DROPPED: u32 = 2;

#[test]
#[expect(clippy::print_stdout, reason = "the test prints figures")]
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
        let tuples = PerSide::new(
            Tuple { peer: at(from, 1001), local: at(from, 1002) },
            Tuple { peer: at(to, 1003), local: at(to, 1004) },
        );
        let arriving = tuples.map(|tuple| tuple.arriving());
        // More bytes than the packet has are in flight, and none of them is acknowledged.
        let side = SideState {
            sender: SenderState::new(1, 1 << 20),
            drained: true,
            timestamps: Timestamps::DeltaKnown,
            scale_in: 7,
            scale_out: 7,
            ..SideState::default()
        };
        let directions = PerSide::from_fn(|this| DirectionState {
            side,
            translated_tuple: arriving[!this],
            address_checksum_delta: arriving[this].address_checksum_delta(&arriving[!this]),
            out_ifindex: LOOPBACK,
            hop_limit_dscp: hop_limit_dscp(64, 0),
            ..DirectionState::default()
        });
        let splice = Splice { phase: Phase::Joined, directions, ..Splice::default() };
        let slot = kernel.enter(tuples, splice).expect("a slot");
        // Independent of the routes.
        slot.fill(splice);
        for payload in [0, 64, 1400] {
            let packet = packet(tuples[Side::Client], payload);
            let took = kernel.interfaces().with_object(|object| {
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
                (0..MEASUREMENTS).map(|_| run()).min().expect("turns")
            });
            println!("{name}, {payload} bytes: {took} ns");
        }
        let packets: u64 =
            slot.read().directions.iter().map(|(_, direction)| direction.packets).sum();
        assert_eq!(packets, 3 * MEASUREMENTS as u64 * u64::from(PACKETS), "forwarded packets");
    }
}

/// A frame with a segment that has timestamps. The IPv4 checksum, which the program only updates,
/// is wrong.
fn packet(tuple: Tuple, payload: usize) -> Vec<u8> {
    let (tcp, mut frame) = (32 + payload, vec![0; 12]);
    match (tuple.peer, tuple.local) {
        (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + tcp as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(peer.ip().octets());
            frame.extend(local.ip().octets());
        }
        (SocketAddr::V6(peer), SocketAddr::V6(local)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(peer.ip().octets());
            frame.extend(local.ip().octets());
        }
        _ => unreachable!("both are of one family"),
    }
    frame.extend(tuple.peer.port().to_be_bytes());
    frame.extend(tuple.local.port().to_be_bytes());
    // Sequence and acknowledgement number; header of eight words; ACK; window; no urgent data;
    // timestamps.
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 8 << 4, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    frame.resize(frame.len() + payload, 7);
    let segment = frame.len() - tcp;
    let addresses = if tuple.peer.is_ipv4() { 8 } else { 32 };
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
