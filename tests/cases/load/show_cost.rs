//! Measures what a `show` every 10 ms costs the clients. Run it on an otherwise idle machine:
//!
//! `cargo test --release -p tests --test load show_cost -- --ignored --nocapture --test-threads 1`
//!
//! Rounds with and without `show` alternate on the same connections of one program, and each round
//! is compared with its neighbour, so other load of the machine affects both. A `show` here is the
//! request that `-c show` sends, on a connection of its own, without the process of `balance -c
//! show`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use tests::{Backend, Builder, Datapath, RunDir, TIMEOUT, connect, kernel_works, note};

const CONNECTIONS: usize = 64;
const REQUEST: usize = 64;
const PAIRS: usize = 20;
const ROUND: Duration = Duration::from_millis(1000);
const INTERVAL: Duration = Duration::from_millis(10);

fn cost_of_show(datapath: Datapath) {
    let dir = RunDir::new();
    let server = Backend::echo("A");
    let balance = dir.use_in(Builder::new(datapath).quiet().channel(server.address())).start();
    let (address, socket) = (balance.address(), dir.file(balance.address(), "sock"));
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut pairs = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CONNECTIONS).map(|_| scope.spawn(|| requests(address, &done, &over))).collect();
        let rate = |with_show| round(&done, with_show, &socket);
        // Until all connections have reached their datapath.
        rate(false);
        let pairs: Vec<(f64, f64)> = (0..PAIRS)
            .map(|pair| {
                // Alternates the order within the pairs.
                let first_shows = pair % 2 == 1;
                let (first, second) = (rate(first_shows), rate(!first_shows));
                if first_shows { (second, first) } else { (first, second) }
            })
            .collect();
        over.store(true, Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("a client"));
        pairs
    });
    let mean = pairs.iter().map(|(plain, _)| plain).sum::<f64>() / PAIRS as f64;
    let loss = |&(plain, loaded): &(f64, f64)| (1.0 - loaded / plain) * 100.0;
    pairs.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
    let losses: Vec<f64> = pairs.iter().map(loss).collect();
    note(&format!(
        "{datapath:?}: {mean:.0} requests a second; with with_show {:.1} % fewer (median of {PAIRS} \
         pairs; quartiles {:.1} and {:.1})",
        (losses[PAIRS / 2 - 1] + losses[PAIRS / 2]) / 2.0,
        losses[PAIRS / 4],
        losses[PAIRS * 3 / 4],
    ));
}

#[test]
#[ignore = "a measurement"]
fn on_relay() {
    cost_of_show(Datapath::Relay);
}

#[test]
#[ignore = "a measurement"]
fn on_sockmap() {
    if kernel_works() {
        cost_of_show(Datapath::Sockmap);
    }
}

/// Requests a second in one round, with or without `show`.
fn round(done: &AtomicU64, with_show: bool, socket: &Path) -> f64 {
    let (start, before) = (Instant::now(), done.load(Relaxed));
    let mut next = start;
    while start.elapsed() < ROUND {
        if with_show {
            show(socket);
        }
        // This sleep sets the pace; it waits for no state.
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (done.load(Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
}

/// Sends the requests of one `-c show`.
fn show(socket: &Path) {
    let stream = UnixStream::connect(socket).expect("connecting to the socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    let mut replies = BufReader::new(&stream);
    for (command, expected) in [("hello", "{\"hello\""), ("show", "{\"table\"")] {
        let request = format!("{{\"version\":1,\"command\":\"{command}\"}}\n");
        (&stream).write_all(request.as_bytes()).expect("the request");
        let mut reply = String::new();
        replies.read_line(&mut reply).expect("the reply");
        assert!(reply.starts_with(expected), "{reply}");
    }
}

/// Sends requests one after the other until the measurement ends.
fn requests(address: SocketAddr, done: &AtomicU64, over: &AtomicBool) {
    let mut stream = connect(address);
    stream.read_exact(&mut [0]).expect("the greeting");
    let mut answer = [0; REQUEST];
    while !over.load(Relaxed) {
        stream.write_all(&[b'.'; REQUEST]).expect("writing");
        stream.read_exact(&mut answer).expect("the echo");
        done.fetch_add(1, Relaxed);
    }
}
