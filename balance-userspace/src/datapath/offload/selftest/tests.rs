//! What the self-test says of datapaths that do, or do not do, what they should.
//!
//! Invariant: they are threads that copy, so that nothing but what is wrong with each is wrong.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::*;
use crate::datapath::{name::DatapathName, traffic::OffloadCounters};

/// A kernel that moves bytes at any moment; how many, each way.
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

/// Runs the test on a datapath that has a thread move each direction, as `up` and `copy` do.
fn run_on(up: impl Fn(TcpStream, TcpStream, &AtomicU64) + Send) -> Result<(), String> {
    run(SocketOptions::default(), async |pair: &Pair, _: &BufferPool| {
        let kernel = Arc::new(Kernel::default());
        pair.traffic.start_offload(&kernel, [0, 1]);
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

/// Moves bytes to the end of the source and passes that on.
fn copy(source: TcpStream, target: TcpStream, moved: &AtomicU64) {
    change(source, target, moved, |_, _| {});
}

/// The same with bytes that `spoil` has been at; it is told how many went before.
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

fn is_refused(result: Result<(), String>, why: &str) {
    let refused = result.expect_err("it is not as it should be");
    assert!(refused.contains(why), "{refused}");
}

#[test]
fn one_that_does_what_it_should_passes() {
    run_on(copy).unwrap();
}

#[test]
fn one_that_changes_a_byte_is_refused() {
    let spoil = |before, bytes: &mut [u8]| {
        if before > 100_000 {
            bytes[0] ^= 1;
        }
    };
    let changing = |source, target, moved: &AtomicU64| change(source, target, moved, spoil);
    is_refused(run_on(changing), "was changed on its way");
}

#[test]
fn one_that_holds_whatever_comes_for_a_receiver_that_stands_still_is_refused() {
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
    is_refused(run_on(hoarding), "a receiver that stands still was sent");
}

#[test]
fn one_that_adds_a_byte_is_refused() {
    let adding = |mut source: TcpStream, mut target: TcpStream, moved: &AtomicU64| {
        if let Ok(n) = io::copy(&mut source, &mut target) {
            moved.fetch_add(n, Relaxed);
        }
        let _ = target.write_all(b"x");
        let _ = target.shutdown(Shutdown::Write);
    };
    is_refused(run_on(adding), "more came than was sent");
}

#[test]
fn one_that_miscounts_is_refused() {
    let miscounting = |source, target, moved: &AtomicU64| {
        copy(source, target, moved);
        moved.fetch_add(1, Relaxed);
    };
    is_refused(run_on(miscounting), "bytes counted, end: clean");
}

#[test]
fn one_through_which_the_program_sees_nothing_is_refused() {
    let result = run(SocketOptions::default(), async |pair: &Pair, pool: &BufferPool| {
        pair.traffic.start_offload(&Arc::new(Kernel::default()), [0, 1]);
        let report = crate::datapath::relay::carry(pair, pool, false).await;
        pair.traffic.end_offload();
        report
    });
    is_refused(result, "the program saw no packet");
}
