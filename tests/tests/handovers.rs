//! Many connections, each handed over at another point of what it carries both ways at once: no
//! byte is lost, comes twice, or comes at another place.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use tests::{Builder, Datapath, Link, MUST_SPLICE, Session, both_ways, note, on_splice};

/// Turns of user space after which each program hands its connections over.
const AFTER: [u32; 10] = [1, 2, 3, 5, 8, 12, 17, 24, 32, 40];

/// Connections of each.
const CONNECTIONS: u64 = 50;

/// How many of them are there at a time.
const AT_A_TIME: u64 = 8;

fn five_hundred_connections_are_handed_over_in_the_middle(datapath: Datapath) {
    let mut sessions = Vec::new();
    for after in AFTER {
        let builder = Builder::new(datapath).offload_after(after);
        let link = Link::small_with(builder);
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
    if datapath != Datapath::Splice || MUST_SPLICE {
        assert!(count > sessions.len() / 2, "{count} of {}", sessions.len());
    }
}

mod on_handover {
    #[test]
    fn five_hundred_connections_are_handed_over_in_the_middle() {
        if tests::sockmap_works() {
            super::five_hundred_connections_are_handed_over_in_the_middle(
                tests::Datapath::Handover,
            );
        }
    }
}

on_splice!(five_hundred_connections_are_handed_over_in_the_middle);

/// Moves two to four MiB each way at once on a connection of its own, with buffers and writes that
/// make many turns of it.
fn carry(link: &Link, pairing: &Mutex<()>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let [up, down] = [0, 1].map(|_| random.u64(2 << 20..4 << 20));
    let (client, server) = {
        // One at a time: otherwise the ends of two connections could change places.
        let _alone = pairing.lock().unwrap_or_else(PoisonError::into_inner);
        link.small_pair()
    };
    both_ways(&client, &server, (up, down), 1..20_000);
}

fn summary(datapath: Datapath, after: u32, sessions: &[Session]) -> String {
    let taken = sessions.iter().filter(|session| session.datapath == datapath.name());
    let offloaded: u64 = sessions.iter().map(|session| session.offloaded).sum();
    let all: u64 = sessions.iter().map(|session| session.sent + session.rcvd).sum();
    let share = 100 * offloaded / all;
    format!(
        "{datapath:?} after {after} turns: {} handed over, {share} % of the bytes",
        taken.count()
    )
}
