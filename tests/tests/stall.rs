//! A receiver that stops reading stops its sender, in bounded memory, and loses nothing.
//!
//! The tests of this file run one at a time: they measure memory of the whole machine.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tests::{
    Datapath, Digest, KernelMemory, Link, Pattern, Receiver, WHOLE, eventually, note,
    on_both_datapaths, receive_all, receive_exactly, send,
};

/// What the program and the kernel on its behalf may hold of one direction of a connection.
const BOUND: u64 = 16 << 20;
/// What the test's own two sockets may hold: each has two buffers of 64 KiB, which the kernel
/// doubles.
const OWN_BUFFERS: u64 = 4 * (128 << 10);
/// Far more than may be held: a sender that is not stopped sends it all.
const MUCH: u64 = 48 << 20;
/// A sender that has got nothing through for so long has stopped.
const STILL: Duration = Duration::from_millis(1500);

fn a_client_that_stops_reading_stops_the_server(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    stall(&link, server, client);
}

fn a_server_that_stops_reading_stops_the_client(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    stall(&link, client, server);
}

fn when_both_stop_reading_each_direction_resumes_by_itself(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    for client_resumes_first in [true, false] {
        let (client, server) = link.small_pair();
        let up = Sending::start(&client, MUCH);
        let down = Sending::start(&server, MUCH + 1);
        let (up_stopped, down_stopped) = (up.wait_until_still(), down.wait_until_still());
        note(&format!("{datapath:?}: stopped at {up_stopped} up, {down_stopped} down"));
        assert!(up_stopped <= BOUND + OWN_BUFFERS, "up: {up_stopped}");
        assert!(down_stopped <= BOUND + OWN_BUFFERS, "down: {down_stopped}");

        let directions = [(&client, down), (&server, up)];
        let [first, second] = match client_resumes_first {
            true => directions,
            false => {
                let [client, server] = directions;
                [server, client]
            }
        };
        let before = second.1.so_far();
        let got = receive_all(first.0).expect("the direction that resumes");
        assert_eq!(got, first.1.finish());
        let after = second.1.so_far();
        // The kernel may find a little more room in the buffers it has.
        assert!(after - before <= OWN_BUFFERS, "{before} to {after}: the other one has moved");
        let got = receive_all(second.0).expect("the direction that resumes later");
        assert_eq!(got, second.1.finish());
    }
    link.balance.assert_all_on_its_datapath(2);
}

fn a_receiver_that_reads_in_fits_and_starts_gets_everything(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    thread::scope(|scope| {
        for (from, to) in [(&client, &server), (&server, &client)] {
            scope.spawn(move || {
                let sending = Sending::start(from, MUCH);
                let mut random = fastrand::Rng::with_seed(11);
                let mut receiver = Receiver::new();
                let mut target = 0;
                while target < MUCH {
                    target += random.u64(1..6 << 20);
                    receiver.read_up_to(to, target).expect("a part");
                    // Not a wait: this receiver is busy with something else.
                    thread::sleep(Duration::from_millis(random.u64(0..60)));
                }
                assert_eq!(receiver.digest(), sending.finish());
            });
        }
    });
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
}

fn a_flood_of_tiny_packets_to_a_stopped_receiver_takes_little_memory(datapath: Datapath) {
    /// More than a send buffer holds, less than what stops the sender: from here on the kernel
    /// cannot join packets on their way out.
    const FILLING: u64 = 5 << 20;
    const PACKETS: u64 = 300_000;
    /// As packets of their own in the kernel they would take 230 MB at the very least.
    const MEMORY: u64 = 96 << 20;

    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    let (kernel, resident) = memory(&link);
    let filling = send(&client, Pattern::new(1, FILLING), WHOLE, |_| {}).expect("filling");
    let mut most = 0;
    let flood = Sending::start_with(&client, PACKETS, 1..2);
    let sent = flood.wait_until_still_and(|| {
        let (kernel_now, resident_now) = memory(&link);
        let growth = kernel_now.growth_since(kernel) + resident_now.saturating_sub(resident);
        most = most.max(growth);
    });
    note(&format!("{datapath:?}: {most} bytes of memory more for {sent} packets of one byte"));
    assert!(most < MEMORY, "{most} bytes for {sent} packets");
    assert_eq!(receive_exactly(&server, FILLING).expect("the filling"), filling);
    assert_eq!(receive_all(&server).expect("the flood"), flood.finish());
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
}

fn stalled_connections_do_not_hold_others_up(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let (client, server) = link.small_pair();
            let sending = Sending::start(&server, MUCH);
            (client, server, sending)
        })
        .collect();
    for (_, _, sending) in &stalled {
        sending.wait_until_still();
    }
    let (mut client, server) = link.pair();
    let start = Instant::now();
    tests::both_ways(&client, &server, (20 << 20, 20 << 20), WHOLE);
    note(&format!("{datapath:?}: 20 MiB each way in {:?}", start.elapsed()));
    client.write_all(b"still here").expect("writing");
    drop((client, server));
    for (client, _server, sending) in stalled {
        let got = receive_all(&client).expect("what was held up");
        assert_eq!(got, sending.finish());
    }
}

on_both_datapaths!(
    a_client_that_stops_reading_stops_the_server,
    a_server_that_stops_reading_stops_the_client,
    when_both_stop_reading_each_direction_resumes_by_itself,
    a_receiver_that_reads_in_fits_and_starts_gets_everything,
    a_flood_of_tiny_packets_to_a_stopped_receiver_takes_little_memory,
    stalled_connections_do_not_hold_others_up,
);

/// `from` sends until it is stopped; then `to` starts to read.
fn stall(link: &Link, from: TcpStream, to: TcpStream) {
    let (kernel, resident) = memory(link);
    let sending = Sending::start(&from, MUCH);
    let stopped = sending.wait_until_still();
    let (kernel_now, resident_now) = memory(link);
    let growth = kernel_now.growth_since(kernel) + resident_now.saturating_sub(resident);
    note(&format!(
        "stopped after {stopped} bytes; {growth} bytes of memory more, of which {} in the program",
        resident_now.saturating_sub(resident)
    ));
    assert!(stopped <= BOUND + OWN_BUFFERS, "{stopped}");
    // Other processes use the kernel's memory as well, so this is not the bound itself.
    assert!(growth < 8 * BOUND, "{growth}: {kernel:?}, {kernel_now:?}");
    let got = receive_all(&to).expect("all of it, once the receiver has resumed");
    assert_eq!(got, sending.finish());
    drop((from, to));
    link.balance.assert_all_on_its_datapath(1);
}

fn memory(link: &Link) -> (KernelMemory, u64) {
    (KernelMemory::now(), link.balance.process().resident())
}

/// A thread that sends seeded data and then ends its direction.
struct Sending {
    so_far: Arc<AtomicU64>,
    len: u64,
    thread: JoinHandle<Digest>,
}

impl Sending {
    fn start(stream: &TcpStream, len: u64) -> Self {
        Self::start_with(stream, len, WHOLE)
    }

    fn start_with(stream: &TcpStream, len: u64, writes: std::ops::Range<usize>) -> Self {
        let stream = stream.try_clone().expect("dup");
        let so_far = Arc::new(AtomicU64::new(0));
        let counter = so_far.clone();
        let thread = thread::spawn(move || {
            let count = |written: usize| {
                counter.fetch_add(written as u64, Ordering::Relaxed);
            };
            let sent = send(&stream, Pattern::new(len, len), writes, count).expect("sending");
            stream.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        Self { so_far, len, thread }
    }

    fn so_far(&self) -> u64 {
        self.so_far.load(Ordering::Relaxed)
    }

    /// What has been sent once nothing more gets through, or nothing is left.
    fn wait_until_still(&self) -> u64 {
        self.wait_until_still_and(|| ())
    }

    /// The same; has a look at something every few milliseconds.
    fn wait_until_still_and(&self, mut look: impl FnMut()) -> u64 {
        let mut seen = (self.so_far(), Instant::now());
        eventually(tests::PATIENCE, "the sender stops", || {
            look();
            let now = self.so_far();
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            match now == self.len || seen.1.elapsed() >= STILL {
                true => Ok(now),
                false => Err(format!("{now} bytes sent")),
            }
        })
    }

    fn finish(self) -> Digest {
        self.thread.join().expect("the sender")
    }
}

/// Held by the one test of this file that runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock is no reason for the others to fail.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
