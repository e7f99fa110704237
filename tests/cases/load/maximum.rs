//! Twice as many clients as all channels admit. No maximum is exceeded, as the servers see it and
//! as `show` reports it. Afterwards the counters agree with the servers.
//!
//! `BALANCE_TEST_CONNECTIONS` sets the number of connection attempts, by default 6,000. A client
//! that is not admitted is closed at once, counts as unserved, and does not try again.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use tests::{
    Builder, ClientCounter, Datapath, RunDir, TIMEOUT, eventually, note, on_each_datapath, visit,
};

const CHANNELS: usize = 3;
const MAX: usize = 50;
const CLIENTS: usize = 300;
const CONNECTIONS: usize = 6_000;

fn a_maximum_holds_under_twice_the_load(datapath: Datapath) {
    let connections = std::env::var("BALANCE_TEST_CONNECTIONS")
        .map_or(CONNECTIONS, |text| text.parse().expect("a number of connections"));
    let dir = RunDir::new();
    let servers = [(); CHANNELS].map(|()| ClientCounter::server());
    let mut builder = Builder::new(datapath).quiet();
    for (server, _) in &servers {
        builder = builder.operand(&format!("{}:{MAX}", server.address()));
    }
    let balance = dir.use_in(builder).start();
    let address = balance.address();

    let start = Instant::now();
    let progress = Progress::new(connections);
    let (served, shown) = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(address, &progress))).collect();
        let watcher = scope.spawn(|| watch(&dir, address, &progress));
        let served: usize = clients.into_iter().map(|c| c.join().expect("a client")).sum();
        progress.over.store(true, SeqCst);
        (served, watcher.join().expect("the watcher"))
    });
    let took = start.elapsed();

    let rows = dir.show_at_rest(address);
    let most = servers.each_ref().map(|(_, counter)| counter.most());
    let total: u64 = rows.iter().map(|row| row.total).sum();
    note(&format!(
        "{datapath:?}: {served} of {connections} served in {took:.1?}; totalc {total}; most at a \
         time {most:?} as the servers saw, {} in {} calls of show",
        shown.most, shown.calls
    ));
    for ((row, (server, _)), most) in rows.iter().zip(&servers).zip(most) {
        assert_eq!(most, MAX, "{rows:?}");
        assert_eq!(usize::try_from(row.total).expect("few"), server.accepted(), "{rows:?}");
        // One byte each way.
        assert_eq!((row.sent, row.rcvd), (row.total, row.total), "{rows:?}");
    }
    assert_eq!(shown.most, MAX as u64, "as shown");
    assert_eq!(usize::try_from(total).expect("few"), served, "{rows:?}");
    let stopped = balance.stop();
    let all = connections as u64;
    assert_eq!((stopped.connections, stopped.unserved), (all, all - total));
}

on_each_datapath!(a_maximum_holds_under_twice_the_load);

/// State shared by the clients and the watcher.
struct Progress {
    /// Attempts left after the first attempt of every client.
    left: AtomicUsize,
    /// Clients whose first attempt has been decided.
    answered: AtomicUsize,
    /// Allows the first admitted clients to end.
    seen: AtomicBool,
    over: AtomicBool,
}

impl Progress {
    fn new(connections: usize) -> Self {
        Self {
            left: AtomicUsize::new(connections.checked_sub(CLIENTS).expect("one for each client")),
            answered: AtomicUsize::new(0),
            seen: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn take_attempt(&self) -> bool {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Connects until all attempts are used; returns how often the client was admitted. A client that
/// is admitted at its first attempt stays until all clients have tried.
fn client(address: SocketAddr, progress: &Progress) -> usize {
    let first = visit(address, || {
        progress.answered.fetch_add(1, SeqCst);
        until(&progress.seen, "full channels are seen");
    });
    let others = std::iter::from_fn(|| progress.take_attempt().then(|| visit(address, || ())));
    usize::from(first) + others.filter(|served| *served).count()
}

fn until(flag: &AtomicBool, what: &str) {
    eventually(TIMEOUT, what, || if flag.load(SeqCst) { Ok(()) } else { Err("not yet".into()) });
}

/// What `show` reported under load.
struct Shown {
    calls: usize,
    most: u64,
}

/// Calls `show` when all channels are full, and then repeatedly until the end of the test.
fn watch(dir: &RunDir, address: SocketAddr, progress: &Progress) -> Shown {
    eventually(TIMEOUT, "all clients have an answer", || match progress.answered.load(SeqCst) {
        CLIENTS => Ok(()),
        some => Err(format!("{some} of {CLIENTS} have")),
    });
    let rows = dir.show(address);
    assert_eq!(rows.len(), CHANNELS);
    assert!(rows.iter().all(|row| row.current == MAX as u64), "{rows:?}");
    progress.seen.store(true, SeqCst);
    let mut shown = Shown { calls: 1, most: MAX as u64 };
    while !progress.over.load(SeqCst) {
        let rows = dir.show(address);
        shown.calls += 1;
        shown.most = rows.iter().map(|row| row.current).fold(shown.most, u64::max);
    }
    shown
}
