//! Tests of the self-test: a correct datapath passes, and datapaths with one fault each do not.
//!
//! Invariant: each datapath is two threads that copy bytes, with at most one fault.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::*;
use crate::datapath::{name::DatapathName, side::PerSide, traffic::OffloadCounters};

/// Stands for a kernel that always moves bytes: the number of bytes of each direction.
#[derive(Debug, Default)]
struct Kernel([AtomicU64; 2]);

impl OffloadCounters for Kernel {
    fn name(&self) -> DatapathName {
        DatapathName::Sockmap
    }

    fn bytes(&self, slot: u32) -> u64 {
        self.0[slot as usize].load(Relaxed)
    }

    fn is_moving(&self, _: u32) -> bool {
        true
    }
}

/// Runs the self-test on a datapath with two threads: `up` moves the bytes of the client, `copy`
/// those of the backend.
fn run_on(up: impl Fn(TcpStream, TcpStream, &AtomicU64) + Send) -> Result<(), String> {
    run(SocketOptions::default(), async |pair: &Pair, _: &BufferPool| {
        let kernel = Arc::new(Kernel::default());
        pair.traffic.start_offload(&kernel, PerSide::new(0, 1));
        let stream = |end: &Stream| end.try_clone().map(TcpStream::from).expect("a descriptor");
        let ends = || (stream(&pair.client), stream(&pair.backend));
        thread::scope(|scope| {
            let [moved_up, moved_down] = &kernel.0;
            let (client, backend) = ends();
            scope.spawn(move || up(client, backend, moved_up));
            let (client, backend) = ends();
            scope.spawn(move || copy(backend, client, moved_down));
        });
        let _ = pair.client.close_cleanly();
        let _ = pair.backend.close_cleanly();
        pair.traffic.end_offload();
        ConnectionReport { datapath: DatapathName::Sockmap, end: ConnectionEnd::Clean }
    })
}

/// Copies bytes until the source ends, then passes the FIN on.
fn copy(source: TcpStream, target: TcpStream, moved: &AtomicU64) {
    change(source, target, moved, |_, _| {});
}

/// Copies bytes after `spoil` has changed them. The first argument of `spoil` is the number of
/// bytes copied before.
fn change(
    mut source: TcpStream,
    mut target: TcpStream,
    moved: &AtomicU64,
    spoil: impl Fn(u64, &mut [u8]),
) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = source.read(&mut buffer) {
        spoil(moved.load(Relaxed), &mut buffer[..n]);
        moved.fetch_add(n as u64, Relaxed);
        if target.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = target.shutdown(Shutdown::Write);
}

fn assert_error(result: Result<(), String>, part: &str) {
    let error = result.expect_err("the datapath has a fault");
    assert!(error.contains(part), "{error}");
}

#[test]
fn a_correct_datapath_passes() {
    run_on(copy).unwrap();
}

#[test]
fn a_changed_byte_is_found() {
    let spoil = |before, bytes: &mut [u8]| {
        if before > 100_000 {
            bytes[0] ^= 1;
        }
    };
    let changing = |source, target, moved: &AtomicU64| change(source, target, moved, spoil);
    assert_error(run_on(changing), "was changed");
}

#[test]
fn an_unbounded_queue_for_a_stalled_receiver_is_found() {
    let hoarding = |mut source: TcpStream, mut target: TcpStream, moved: &AtomicU64| {
        let (hold, held) = mpsc::channel::<Vec<u8>>();
        thread::scope(|scope| {
            scope.spawn(move || {
                for bytes in held {
                    if target.write_all(&bytes).is_err() {
                        break;
                    }
                }
                let _ = target.shutdown(Shutdown::Write);
            });
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                moved.fetch_add(n as u64, Relaxed);
                let _ = hold.send(buffer[..n].to_vec());
            }
            drop(hold);
        });
    };
    assert_error(run_on(hoarding), "a stalled receiver was sent");
}

#[test]
fn an_added_byte_is_found() {
    let adding = |mut source: TcpStream, mut target: TcpStream, moved: &AtomicU64| {
        if let Ok(n) = io::copy(&mut source, &mut target) {
            moved.fetch_add(n, Relaxed);
        }
        let _ = target.write_all(b"x");
        let _ = target.shutdown(Shutdown::Write);
    };
    assert_error(run_on(adding), "received more bytes than were sent");
}

#[test]
fn a_wrong_counter_is_found() {
    let miscounting = |source, target, moved: &AtomicU64| {
        copy(source, target, moved);
        moved.fetch_add(1, Relaxed);
    };
    assert_error(run_on(miscounting), "bytes counted, end: clean");
}

#[test]
fn a_program_that_sees_no_packet_is_found() {
    let result = run(SocketOptions::default(), async |pair: &Pair, pool: &BufferPool| {
        pair.traffic.start_offload(&Arc::new(Kernel::default()), PerSide::new(0, 1));
        let report = crate::datapath::relay::carry(pair, pool, false).await;
        pair.traffic.end_offload();
        report
    });
    assert_error(result, "the BPF program saw no packet");
}
