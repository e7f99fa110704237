//! The program is killed under load: its peers see resets, nothing of the program is left, and
//! another program can take its place at once.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _, sink},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{
    Backend, BpfObjects, Builder, Datapath, Digest, Family, Link, Network, Pattern, Receiver,
    ReservedPort, RunDir, TIMEOUT, Topology, WHOLE_CHUNKS, connect, eventually, has_tcx,
    is_listening, note, on_each_datapath, send, skip,
};

/// Connections in use at the crash.
const BUSY: usize = 12;

/// How long a client waits for data before it sends again. After a crash a spliced connection
/// breaks only when a peer next sends (docs/limits.md).
const WAIT: Duration = Duration::from_millis(200);

/// Sends and reads until the connection ends; returns whether the connection broke.
fn use_until_it_ends(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).expect("SO_RCVTIMEO");
    let mut bytes = [7; 8000];
    loop {
        let spoken = stream.write_all(&bytes).and_then(|()| stream.read_exact(&mut bytes));
        match spoken.map_err(|error| error.kind()) {
            Ok(()) | Err(ErrorKind::WouldBlock) => {}
            Err(kind) => {
                return [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind);
            }
        }
    }
}

fn a_killed_program_leaves_nothing_and_frees_its_port(datapath: Datapath) {
    let (server, port, dir) = (Backend::echo("A"), ReservedPort::new(), RunDir::new());
    let start = || {
        let builder = dir.use_in(Builder::new(datapath)).listen(port.address());
        builder.channel(server.address()).start()
    };
    let mut balance = start();
    let clients: Vec<_> = (0..BUSY)
        .map(|_| {
            let mut client = connect(port.address());
            client.read_exact(&mut [0]).expect("the server's name");
            thread::spawn(move || use_until_it_ends(client))
        })
        .collect();
    wait_until_carried(&dir, port.address(), datapath, BUSY);
    let objects = BpfObjects::of(balance.process().0);
    assert_eq!(objects.left(), objects);
    assert_eq!(objects == BpfObjects::default(), datapath == Datapath::Relay);

    balance.signal(Signal::SIGKILL);
    balance.wait(TIMEOUT);
    // The kernel may still be resetting connections of the first program, whose listener may still
    // be open: the kernel tears io_uring instances down asynchronously, shortly after the process
    // exits (io_uring/io_uring.c, io_ring_exit_work).
    let still = if is_listening(port.port()) { "still" } else { "no longer" };
    let begun = Instant::now();
    let second = start();
    let took = begun.elapsed();
    note(&format!("{datapath:?}: the first {still} listened; the second was ready in {took:?}"));
    assert_eq!(ask_name(port.address()), "A");
    for client in clients {
        assert!(client.join().expect("the client"), "a clean end of a broken connection");
    }
    eventually(TIMEOUT, "the BPF objects are gone", || match objects.left() {
        none if none == BpfObjects::default() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    second.stop();
    let left = fs::read_dir(dir.path()).expect("the run directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
}

/// One-way streams in each direction.
const STREAMS: usize = 3;

/// Bytes received before the crash.
const MIDDLE: u64 = 4 << 20;

/// Seed of the payload of all streams.
const SEED: u64 = 11;

fn a_transfer_that_is_cut_off_does_not_look_complete(datapath: Datapath) {
    cut_off(datapath, |builder| Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into()));
}

fn a_transfer_between_hosts_that_is_cut_off_does_not_look_complete(datapath: Datapath) {
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    cut_off(datapath, |builder| Link::across(network, builder));
}

fn cut_off(datapath: Datapath, link: impl FnOnce(Builder) -> Link) {
    if datapath == Datapath::Splice && !has_tcx() {
        return skip(
            "before Linux 6.6 a spliced connection continues until another program starts",
        );
    }
    let dir = RunDir::new();
    let mut link = link(dir.use_in(Builder::new(datapath)));
    let pairs: Vec<_> = (0..2 * STREAMS).map(|_| link.settled_pair()).collect();
    wait_until_carried(&dir, link.balance.address(), datapath, pairs.len());
    let streams = pairs.iter().enumerate().map(|(i, (client, server))| match i % 2 {
        0 => ("up", client, server),
        _ => ("down", server, client),
    });
    thread::scope(|scope| {
        let streams: Vec<_> = streams
            .map(|(name, from, to)| {
                let came = Arc::new(AtomicU64::new(0));
                let sender = scope.spawn(|| send_until_it_breaks(from));
                let coming = Arc::clone(&came);
                let receiver = scope.spawn(move || receive_until_it_breaks(to, datapath, &coming));
                (name, came, sender, receiver)
            })
            .collect();
        eventually(TIMEOUT, "all transfers are running", || {
            let came: Vec<_> =
                streams.iter().map(|(_, came, ..)| came.load(Ordering::Relaxed)).collect();
            if came.iter().all(|&came| came >= MIDDLE) { Ok(()) } else { Err(format!("{came:?}")) }
        });
        wait_until_carried(&dir, link.balance.address(), datapath, streams.len());
        link.balance.signal(Signal::SIGKILL);
        link.balance.wait(TIMEOUT);
        for (name, _, sender, receiver) in streams {
            let sent = sender.join().expect("the sender");
            let got = receiver.join().expect("the receiver");
            note(&format!("{datapath:?}, {name}: {sent} bytes sent, {} received", got.len));
            let prefix = send(sink(), Pattern::new(SEED, got.len), WHOLE_CHUNKS, |_| {});
            assert_eq!(got, prefix.expect("a prefix"), "{name}");
            assert!(got.len <= sent, "{name}: {sent} bytes sent, {got:?} received");
        }
    });
}

/// Sends until an error; returns the number of bytes sent.
fn send_until_it_breaks(stream: &TcpStream) -> u64 {
    let mut sent = 0;
    let error =
        send(stream, Pattern::new(SEED, u64::MAX), WHOLE_CHUNKS, |written| sent += written as u64)
            .expect_err("an endless stream");
    let broken = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind());
    assert!(broken, "sending: {error}");
    sent
}

/// Receives until a reset. On splice it also sends a byte after a silence, because only then does
/// the peer reset.
fn receive_until_it_breaks(stream: &TcpStream, datapath: Datapath, came: &AtomicU64) -> Digest {
    let patience = if datapath == Datapath::Splice { WAIT } else { TIMEOUT };
    stream.set_read_timeout(Some(patience)).expect("SO_RCVTIMEO");
    let mut receiver = Receiver::new();
    loop {
        let wanted = came.load(Ordering::Relaxed) + WHOLE_CHUNKS.start as u64;
        let mut outcome = receiver.read_up_to(stream, wanted);
        let got = receiver.digest();
        came.store(got.len, Ordering::Relaxed);
        let is_silent = matches!(&outcome, Err(error) if error.kind() == ErrorKind::WouldBlock);
        if is_silent && datapath == Datapath::Splice {
            outcome = (&*stream).write_all(b"?");
        } else if outcome.is_ok() {
            assert_eq!(got.len, wanted, "a clean end of an interrupted stream");
        }
        match outcome.map_err(|error| error.kind()) {
            Ok(()) => {}
            Err(ErrorKind::ConnectionReset) => return got,
            Err(kind) => panic!("receiving: {kind}"),
        }
    }
}

/// Waits until exactly `count` connections run on the datapath.
fn wait_until_carried(dir: &RunDir, address: SocketAddr, datapath: Datapath, count: usize) {
    eventually(TIMEOUT, "all are carried by the datapath", || {
        let carriers = dir.carriers(address);
        let on_it = carriers.iter().filter(|&name| name == datapath.name()).count();
        if on_it == count { Ok(()) } else { Err(carriers.join(" ")) }
    });
}

fn ask_name(address: SocketAddr) -> String {
    let mut name = [0];
    connect(address).read_exact(&mut name).expect("the server's name");
    String::from_utf8_lossy(&name).into_owned()
}

on_each_datapath!(
    a_killed_program_leaves_nothing_and_frees_its_port,
    a_transfer_that_is_cut_off_does_not_look_complete,
    a_transfer_between_hosts_that_is_cut_off_does_not_look_complete,
);
