//! An attack on its own thread, which runs while the test does something else.
//!
//! Invariant: dropping a [`BackgroundAttack`] ends the thread.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    kind::{AttackKind, PacketGenerator},
    packet::AddressPair,
    sender::{BATCH, Sender},
};
use crate::Network;

/// Sends packets of one kind to a changeable set of address pairs, until dropped.
#[derive(Debug)]
pub struct BackgroundAttack {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pairs: Mutex<Vec<AddressPair>>,
    stop: AtomicBool,
    sent: AtomicU64,
}

impl BackgroundAttack {
    /// Starts to send `rate` packets a second in total, or as many as possible for `None`.
    pub fn start(
        network: &Network,
        kind: AttackKind,
        pairs: Vec<AddressPair>,
        rate: Option<u32>,
    ) -> Self {
        let to = network.listen_address();
        let mut sender =
            network.off_path_host().enter(move || Sender::new(to)).expect("a raw socket");
        let shared = Arc::new(Shared { pairs: Mutex::new(pairs), ..Shared::default() });
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (mut generator, mut packets_out) = (PacketGenerator::new(7), Vec::new());
            let begun = Instant::now();
            while !own.stop.load(Relaxed) {
                let pairs = own.pairs.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let sent = own.sent.load(Relaxed);
                let due = rate.map(|rate| begun.elapsed().mul_f64(rate.into()).as_secs());
                let most = due.map_or(BATCH as u64, |due| due.saturating_sub(sent));
                if pairs.is_empty() || most == 0 {
                    // This sleep paces the attack; it waits for no state.
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                packets_out.clear();
                while packets_out.len() < most.min(BATCH as u64) as usize {
                    generator.add(kind, &pairs, &[], &mut packets_out);
                }
                sender.send(&packets_out).expect("sending packets");
                own.sent.fetch_add(packets_out.len() as u64, Relaxed);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Replaces the attacked pairs.
    pub fn aim(&self, pairs: Vec<AddressPair>) {
        *self.shared.pairs.lock().unwrap_or_else(PoisonError::into_inner) = pairs;
    }

    /// Number of packets sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }
}

impl Drop for BackgroundAttack {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
