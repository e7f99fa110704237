//! Many more clients than there is room for: a maximum is never exceeded, as the servers see it
//! and as `show` says, and afterwards the counters agree with what the servers saw.
//!
//! Clients try to connect `BALANCE_TEST_CONNECTIONS` times in all, 6,000 without that. A client
//! that finds no room is closed at once and counts as refused; it does not try again.

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
    let course = Course::new(connections);
    let (served, shown) = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(address, &course))).collect();
        let watcher = scope.spawn(|| watch(&dir, address, &course));
        let served: usize = clients.into_iter().map(|c| c.join().expect("a client")).sum();
        course.over.store(true, SeqCst);
        (served, watcher.join().expect("the watcher"))
    });
    let took = start.elapsed();

    let rows = dir.show_at_rest(address);
    let most = servers.each_ref().map(|(_, seats)| seats.most());
    let total: u64 = rows.iter().map(|row| row.total).sum();
    note(&format!(
        "{datapath:?}: {served} of {connections} served in {took:.1?}; totalc {total}; most at a \
         time {most:?} as the servers saw, {} in {} looks of show",
        shown.most, shown.looks
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

/// What clients and watcher tell each other.
struct Course {
    /// Tries that are left after every client's first.
    left: AtomicUsize,
    /// Clients that know whether there is room for their first try.
    answered: AtomicUsize,
    /// The first that were served may end.
    seen: AtomicBool,
    over: AtomicBool,
}

impl Course {
    fn new(connections: usize) -> Self {
        Self {
            left: AtomicUsize::new(connections.checked_sub(CLIENTS).expect("one for each client")),
            answered: AtomicUsize::new(0),
            seen: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn one_more(&self) -> bool {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Tries until there have been enough tries; how often it was served. Whoever is served the first
/// time stays until all have tried.
fn client(address: SocketAddr, course: &Course) -> usize {
    let first = visit(address, || {
        course.answered.fetch_add(1, SeqCst);
        until(&course.seen, "full channels are seen");
    });
    let others = std::iter::from_fn(|| course.one_more().then(|| visit(address, || ())));
    usize::from(first) + others.filter(|served| *served).count()
}

fn until(flag: &AtomicBool, what: &str) {
    eventually(TIMEOUT, what, || if flag.load(SeqCst) { Ok(()) } else { Err("not yet".into()) });
}

/// What `show` said under load.
struct Shown {
    looks: usize,
    most: u64,
}

/// Looks at the channels while all are full, and from then on until it is over.
fn watch(dir: &RunDir, address: SocketAddr, course: &Course) -> Shown {
    eventually(TIMEOUT, "all clients have an answer", || match course.answered.load(SeqCst) {
        CLIENTS => Ok(()),
        some => Err(format!("{some} of {CLIENTS} have")),
    });
    let rows = dir.show(address);
    assert_eq!(rows.len(), CHANNELS);
    assert!(rows.iter().all(|row| row.current == MAX as u64), "{rows:?}");
    course.seen.store(true, SeqCst);
    let mut shown = Shown { looks: 1, most: MAX as u64 };
    while !course.over.load(SeqCst) {
        let rows = dir.show(address);
        shown.looks += 1;
        shown.most = rows.iter().map(|row| row.current).fold(shown.most, u64::max);
    }
    shown
}
