//! A receiver that stops reading stops its sender, in bounded memory and without loss.
//!
//! These tests run one at a time, because they measure memory of the whole machine.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::{
    Backend, Builder, Datapath, KernelMemory, Link, Pattern, Receiver, Sending, WHOLE_CHUNKS,
    eventually, note, on_all_datapaths, receive_all, receive_exactly, send,
};

/// Maximum number of bytes that program and kernel may hold for one direction of a connection.
const BOUND: u64 = 16 << 20;
/// Maximum number of bytes in the test's two sockets: two buffers of 128 KiB each, which the kernel
/// doubles.
const OWN_BUFFERS: u64 = 4 * (256 << 10);
/// Far more than the maximum: a sender that is not stopped sends all of it.
const UNBOUNDED: u64 = 48 << 20;

fn a_client_that_stops_reading_stops_the_server(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = pair(&link, datapath);
    stall(&link, server, client);
}

fn a_server_that_stops_reading_stops_the_client(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = pair(&link, datapath);
    stall(&link, client, server);
}

fn each_direction_resumes_by_itself(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    for client_resumes_first in [true, false] {
        let (client, server) = pair(&link, datapath);
        let up = Sending::start(&client, UNBOUNDED);
        let down = Sending::start(&server, UNBOUNDED + 1);
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
        // The kernel may use a little more of its existing buffers.
        assert!(
            after - before <= OWN_BUFFERS,
            "{before} to {after}: the other direction has moved"
        );
        let got = receive_all(second.0).expect("the direction that resumes later");
        assert_eq!(got, second.1.finish());
    }
    link.balance.assert_all_handed_over(2);
}

fn a_receiver_that_reads_irregularly_gets_everything(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = pair(&link, datapath);
    thread::scope(|scope| {
        for (from, to) in [(&client, &server), (&server, &client)] {
            scope.spawn(move || {
                let sending = Sending::start(from, UNBOUNDED);
                let mut random = fastrand::Rng::with_seed(11);
                let mut receiver = Receiver::new();
                let mut target = 0;
                while target < UNBOUNDED {
                    target += random.u64(1..6 << 20);
                    receiver.read_up_to(to, target).expect("a part");
                    // This sleep shapes the traffic; it waits for no state.
                    thread::sleep(Duration::from_millis(random.u64(0..60)));
                }
                assert_eq!(receiver.digest(), sending.finish());
            });
        }
    });
    drop((client, server));
    link.balance.assert_all_handed_over(1);
}

fn a_flood_of_tiny_packets_to_a_stopped_receiver_takes_little_memory(datapath: Datapath) {
    const PACKETS: u64 = 300_000;
    /// As separate packets they would take at least 230 MB of kernel memory.
    const MEMORY: u64 = 96 << 20;

    let _alone = alone();
    let link = Link::small(datapath);
    let (client, server) = pair(&link, datapath);
    let before = memory(&link);
    // More than a send buffer and less than what stops the sender, so that the kernel can no longer
    // merge packets before sending. With splice there is no such buffer: the receiver itself stops
    // the sender.
    let filled = if datapath == Datapath::Splice { 1 } else { 5 << 20 };
    let filling = send(&client, Pattern::new(1, filled), WHOLE_CHUNKS, |_| {}).expect("filling");
    let flood = Sending::start_with(&client, PACKETS, 1..2, |_| {});
    let sent = flood.wait_until_still();
    let growth = memory_settles(&link, before, MEMORY);
    note(&format!("{datapath:?}: {growth} bytes of memory more for {sent} packets of one byte"));
    assert_eq!(receive_exactly(&server, filled).expect("the filling"), filling);
    assert_eq!(receive_all(&server).expect("the flood"), flood.finish());
    drop((client, server));
    link.balance.assert_all_handed_over(1);
}

/// The pauses make a hand-over datapath switch between its two parts at random moments.
fn bursts_of_tiny_packets_to_a_stopped_receiver_keep_their_order(datapath: Datapath) {
    const PACKETS: u64 = 300_000;

    let _alone = alone();
    let link = Link::small(datapath);
    let mut bursts = fastrand::Rng::with_seed(13);
    for _ in 0..3 {
        let (client, server) = pair(&link, datapath);
        let mut lengths = bursts.fork();
        let mut left = 1;
        let pause = move |_| {
            left -= 1;
            if left == 0 {
                left = lengths.u32(1..2000);
                // This sleep shapes the traffic; it waits for no state.
                thread::sleep(Duration::from_micros(100));
            }
        };
        let sending = Sending::start_with(&client, PACKETS, 1..2, pause);
        sending.wait_until_still();
        assert_eq!(receive_all(&server).expect("all bytes"), sending.finish());
    }
    link.balance.assert_all_handed_over(3);
}

fn stalled_connections_do_not_stall_others(datapath: Datapath) {
    let _alone = alone();
    let link = Link::small(datapath);
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let (client, server) = pair(&link, datapath);
            let sending = Sending::start(&server, UNBOUNDED);
            (client, server, sending)
        })
        .collect();
    for (_, _, sending) in &stalled {
        sending.wait_until_still();
    }
    let (mut client, server) = link.pair();
    let start = Instant::now();
    tests::both_ways(&client, &server, (20 << 20, 20 << 20), WHOLE_CHUNKS);
    note(&format!("{datapath:?}: 20 MiB each way in {:?}", start.elapsed()));
    client.write_all(b"still here").expect("writing");
    drop((client, server));
    for (client, _server, sending) in stalled {
        let got = receive_all(&client).expect("the stalled bytes");
        assert_eq!(got, sending.finish());
    }
}

/// The client's bytes come back and fill its own receive buffer, in tiny segments that take more
/// memory than they carry.
fn a_client_that_never_reads_what_an_echoing_server_sends_is_stopped(datapath: Datapath) {
    let _alone = alone();
    let server = Backend::echo("x");
    let balance = Builder::new(datapath).channel(server.address()).start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
    socket.connect(&balance.address().into()).expect("connecting to the program");
    let client = TcpStream::from(socket);
    let stopped = Sending::start(&client, 16 * UNBOUNDED).wait_until_still();
    note(&format!("{datapath:?}: stopped after {stopped} bytes"));
    // Both directions, and the server's buffers, which the kernel may have enlarged.
    assert!(stopped <= 4 * BOUND, "{stopped}");
    // The sender never finishes; the end of the program ends the connection.
    drop(balance);
}

on_all_datapaths!(
    a_client_that_never_reads_what_an_echoing_server_sends_is_stopped,
    a_client_that_stops_reading_stops_the_server,
    a_server_that_stops_reading_stops_the_client,
    each_direction_resumes_by_itself,
    a_receiver_that_reads_irregularly_gets_everything,
    a_flood_of_tiny_packets_to_a_stopped_receiver_takes_little_memory,
    bursts_of_tiny_packets_to_a_stopped_receiver_keep_their_order,
    stalled_connections_do_not_stall_others,
);

/// A new connection that has reached its datapath, or, for the hand-over datapath, is about to be
/// handed over.
fn pair(link: &Link, datapath: Datapath) -> (TcpStream, TcpStream) {
    match datapath {
        Datapath::Handover => link.small_pair(),
        _ => link.settled_small_pair(),
    }
}

/// `from` sends until it is stopped; then `to` reads everything.
fn stall(link: &Link, from: TcpStream, to: TcpStream) {
    let before = memory(link);
    let sending = Sending::start(&from, UNBOUNDED);
    let stopped = sending.wait_until_still();
    // Packets take more than what is in them.
    let growth = memory_settles(link, before, 4 * BOUND);
    note(&format!("stopped after {stopped} bytes; {growth} bytes of memory more"));
    assert!(stopped <= BOUND + OWN_BUFFERS, "{stopped}");
    let got = receive_all(&to).expect("all of it, once the receiver has resumed");
    assert_eq!(got, sending.finish());
    drop((from, to));
    link.balance.assert_all_handed_over(1);
}

/// Memory of the kernel and of the program.
fn memory(link: &Link) -> (KernelMemory, u64) {
    (KernelMemory::now(), link.balance.process().resident())
}

/// Waits until kernel and program use less than `limit` bytes more than `before`; returns the
/// growth. Buffers of a stopped receiver stay allocated, while memory of other processes is
/// released again.
fn memory_settles(link: &Link, before: (KernelMemory, u64), limit: u64) -> u64 {
    eventually(tests::TIMEOUT, &format!("less than {limit} bytes of memory more"), || {
        let (kernel, resident) = memory(link);
        match kernel.growth_since(before.0) + resident.saturating_sub(before.1) {
            growth if growth < limit => Ok(growth),
            growth => Err(format!("{growth}: {:?} to {:?}", before.0, kernel)),
        }
    })
}

/// Held by the one test of this file that runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock is no reason for the others to fail.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
