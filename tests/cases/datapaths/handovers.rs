//! Many connections, each handed over at another point of a transfer in both directions: no byte is
//! lost, duplicated or misplaced.

use std::{
    net::{Ipv4Addr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tests::{Builder, Datapath, Link, Sending, Session, kernel_works, note, receive_all};

/// Numbers of buffers (`--offload-after`), one for each program.
const AFTER: [u32; 10] = [1, 2, 3, 5, 8, 12, 17, 24, 32, 40];

/// Connections through each program.
const CONNECTIONS: u64 = 50;

/// Concurrent connections.
const AT_A_TIME: u64 = 8;

fn five_hundred_connections_are_handed_over_in_the_middle(datapath: Datapath) {
    let mut sessions = Vec::new();
    for after in AFTER {
        let builder = Builder::new(datapath).offload_after(after);
        let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
        let (sizes, pairing) = (AtomicU64::new(0), Mutex::new(()));
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    loop {
                        let number = sizes.fetch_add(1, Relaxed);
                        if number >= CONNECTIONS {
                            break;
                        }
                        carry(&link, &pairing, u64::from(after) << 8 | number);
                    }
                });
            }
        });
        link.balance.assert_all_on_its_datapath(CONNECTIONS as usize);
        let ended = link.balance.sessions(CONNECTIONS as usize);
        note(&summary(datapath, after, &ended));
        sessions.extend(ended);
        let stopped = link.balance.stop();
        assert_eq!(stopped.connections, CONNECTIONS);
    }
    let in_the_middle = sessions.iter().filter(|session| {
        session.datapath == datapath.name() && session.offloaded < session.sent + session.rcvd
    });
    let count = in_the_middle.count();
    note(&format!("{datapath:?}: {count} of {} in the middle", sessions.len()));
    assert!(count > sessions.len() / 2, "{count} of {}", sessions.len());
}

#[test]
fn on_handover() {
    if kernel_works() {
        five_hundred_connections_are_handed_over_in_the_middle(Datapath::Handover);
    }
}

#[test]
fn on_splice() {
    if kernel_works() {
        five_hundred_connections_are_handed_over_in_the_middle(Datapath::Splice);
    }
}

/// Moves one to four MiB in each direction on a connection of its own.
fn carry(link: &Link, pairing: &Mutex<()>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (client, server) = {
        // Under a lock: otherwise the ends of two connections could be mixed up.
        let _alone = pairing.lock().unwrap_or_else(PoisonError::into_inner);
        link.pair()
    };
    let (up, down) = (begin(&client, &mut random), begin(&server, &mut random));
    thread::scope(|scope| {
        let got = scope.spawn(|| receive_all(&server).expect("the bytes of the client"));
        assert_eq!(receive_all(&client).expect("the bytes of the server"), down.finish());
        assert_eq!(got.join().expect("the receiver"), up.finish());
    });
}

/// Starts a sender that pauses often, so that user space moves many buffers.
fn begin(stream: &TcpStream, random: &mut fastrand::Rng) -> Sending {
    let len = random.u64(1 << 20..4 << 20);
    let mut pauses = random.fork();
    Sending::start_with(stream, len, 1..20_000, move |_| {
        // This pause shapes the traffic; it waits for no state.
        if pauses.bool() {
            thread::sleep(Duration::from_micros(20));
        }
    })
}

fn summary(datapath: Datapath, after: u32, sessions: &[Session]) -> String {
    let taken = sessions.iter().filter(|session| session.datapath == datapath.name());
    let offloaded: u64 = sessions.iter().map(|session| session.offloaded).sum();
    let all: u64 = sessions.iter().map(|session| session.sent + session.rcvd).sum();
    let share = 100 * offloaded / all;
    format!(
        "{datapath:?} after {after} buffers: {} handed over, {share} % of the bytes",
        taken.count()
    )
}
