//! One attack, from the first packet to the clean end of the connection.
//!
//! Invariant: the outcome has the number of packets that the harm took.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    kind::{AttackKind, PacketGenerator},
    scene::{Scene, SceneConfig},
    sender::{BATCH, Sender},
    victim::{KnownPair, Victim},
};
/// One attack on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Kind of packets.
    pub kind: AttackKind,
    /// Address pairs that the attacker knows.
    pub known: KnownPair,
    /// Hosts, datapath and peers.
    pub config: SceneConfig,
    /// Whether the client ends its direction before the attack.
    pub is_half_closed: bool,
    /// Number of packets.
    pub packets: u64,
    /// Seed of the generator.
    pub seed: u64,
}

/// The outcome of an attack.
#[derive(Clone, Debug)]
pub struct AttackOutcome {
    /// Packets sent.
    pub sent: u64,
    /// Duration of the attack.
    pub took: Duration,
    /// CPU time of the program during the attack.
    pub worked: Duration,
    /// The harm done, if any.
    pub wrong: Option<String>,
}

impl fmt::Display for AttackOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, rate) = (self.sent, self.sent as f64 / self.took.as_secs_f64() / 1000.0);
        write!(
            f,
            "{sent:>10} packets {rate:>6.0} k/s {:>6.2} s of the program",
            self.worked.as_secs_f64()
        )?;
        match &self.wrong {
            None => f.write_str("  nothing"),
            Some(wrong) => write!(f, "  {wrong}"),
        }
    }
}

/// Bytes each way between two stretches of an attack, and in every other stretch.
const TRANSFER: u64 = 400_000;

/// Number of stretches of an attack.
const STRETCHES: u64 = 10;

impl Attack {
    /// Attacks a connection. Prints the reason and returns `None` where the attack is impossible.
    pub fn run(&self, progress: &dyn Fn(u64)) -> Option<AttackOutcome> {
        let scene = Scene::new(self.config)?;
        let process = scene.link.balance.process();
        let mut victim = scene.victim();
        let (begun, worked) = (Instant::now(), process.processor_time());
        let mut sent = 0;
        let ended = if self.is_half_closed { victim.end_client() } else { Ok(()) };
        let attacked = ended.and_then(|()| self.attack(&scene, &mut victim, &mut sent, progress));
        let (took, worked) = (begun.elapsed(), process.processor_time().saturating_sub(worked));
        let whole = attacked.and_then(|()| {
            victim.transfer(TRANSFER)?;
            scene.counts(&victim)?;
            scene.totals(victim.carried)?;
            let carried = victim.carried;
            scene.end(victim)?;
            scene.totals(carried)?;
            match scene.link.balance.stop() {
                stopped if stopped.broken == 0 => Ok(()),
                stopped => Err(format!("{stopped:?}")),
            }
        });
        Some(AttackOutcome { sent, took, worked, wrong: whole.err() })
    }

    fn attack(
        &self,
        scene: &Scene,
        victim: &mut Victim,
        sent: &mut u64,
        progress: &dyn Fn(u64),
    ) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let pairs = victim.pairs(self.known).map_err(text)?;
        let to = pairs[0].to;
        let mut sender =
            scene.network().off_path_host().enter(move || Sender::new(to)).map_err(text)?;
        let mut generator = PacketGenerator::new(self.seed);
        let mut packets_out = Vec::with_capacity(BATCH + 4);
        for stretch in 1..=STRETCHES {
            let right = victim.numbers(self.known).map_err(text)?;
            let until = self.packets * stretch / STRETCHES;
            // The connection is silent in odd stretches and busy in even ones.
            let is_busy = stretch % 2 == 0;
            let transfer = Transfer::start(victim, is_busy);
            while *sent < until {
                packets_out.clear();
                while packets_out.len() < BATCH {
                    generator.add(self.kind, &pairs, &right, &mut packets_out);
                }
                sender.send(&packets_out).map_err(text)?;
                *sent += packets_out.len() as u64;
                progress(*sent);
                victim.stands()?;
                if transfer.has_failed() {
                    break;
                }
            }
            let carried = transfer.finish()?;
            for (all, carried) in victim.carried.iter_mut().zip(carried) {
                *all += carried;
            }
            victim.transfer(TRANSFER)?;
        }
        Ok(())
    }
}

/// A transfer on the connection during the attack.
struct Transfer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Victim, Result<(), String>)>>,
}

impl Transfer {
    fn start(victim: &Victim, is_busy: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = || {
            let [client, server] = [0, 1].map(|end| victim.ends[end].try_clone().expect("dup"));
            let (mut clones, stop) = (Victim::new(client, server, 0), Arc::clone(&stop));
            clones.is_half_closed = victim.is_half_closed;
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    if let Err(error) = clones.transfer(20_000) {
                        return (clones, Err(error));
                    }
                }
                (clones, Ok(()))
            })
        };
        let thread = is_busy.then(start);
        Self { stop, thread }
    }

    fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Bytes each way.
    fn finish(self) -> Result<[u64; 2], String> {
        self.stop.store(true, Relaxed);
        let Some(thread) = self.thread else { return Ok([0; 2]) };
        let (clones, outcome) = thread.join().expect("the transfer thread");
        outcome.map(|()| clones.carried)
    }
}
