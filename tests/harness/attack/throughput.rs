//! Throughput of connections under blind acknowledgements, on relay and on splice.
//!
//! Invariant: rounds alternate between the datapaths, so other load of the machine affects both.
//! Each figure is the median of its rounds.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    attack_thread::BackgroundAttack,
    kind::AttackKind,
    packet::AddressPair,
    scene::{Scene, SceneConfig},
    victim::{KnownPair, Victim},
};
use crate::Datapath;

/// The load on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// This many connections exchange requests and answers of 64 bytes.
    Requests(usize),
    /// One connection carries bytes from server to client.
    Bulk,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Requests(connections) => write!(f, "requests of {connections}"),
            Load::Bulk => f.write_str("bulk of 1"),
        }
    }
}

/// Requests or bytes a second, on relay and on splice.
#[derive(Clone, Debug)]
pub struct ThroughputFigures {
    /// The load.
    pub load: Load,
    /// Without an attack.
    pub calm: [f64; 2],
    /// Under attack.
    pub attacked: [f64; 2],
}

impl ThroughputFigures {
    /// Throughput of splice divided by that of relay, without and under attack.
    pub fn ratios(&self) -> [f64; 2] {
        [self.calm, self.attacked].map(|[relay, splice]| splice / relay)
    }
}

impl fmt::Display for ThroughputFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([a, b], [c, d], [calm, attacked]) = (self.calm, self.attacked, self.ratios());
        write!(
            f,
            "{:<15} calm: relay {a:>9.0} splice {b:>9.0} ratio {calm:.2}; attacked: relay {c:>9.0} \
             splice {d:>9.0} ratio {attacked:.2}; attacked of calm: relay {:.2} splice {:.2}",
            self.load.to_string(),
            c / a,
            d / b
        )
    }
}

/// Measures a load on relay and on splice, without an attack and with `rate` blind acknowledgements
/// a second on the known pairs, in `rounds` rounds of `time` each. Returns `None` where that is
/// impossible.
pub fn compare(
    config: SceneConfig,
    load: Load,
    known: KnownPair,
    rate: u32,
    rounds: usize,
    time: Duration,
) -> Option<ThroughputFigures> {
    let scene = |datapath| {
        let scene = Scene::new(SceneConfig { datapath, ..config })?;
        Some(Loaded::start(scene, load, known))
    };
    let both = [scene(Datapath::Relay)?, scene(Datapath::Splice)?];
    let mut figures = <[[Vec<f64>; 2]; 2]>::default();
    for _ in 0..rounds {
        for (loaded, figures) in both.iter().zip(&mut figures) {
            figures[0].push(loaded.measure(time, None));
            figures[1].push(loaded.measure(time, Some(rate)));
        }
    }
    let [relay, splice] = figures.map(|rounds| rounds.map(median));
    Some(ThroughputFigures { load, calm: [relay[0], splice[0]], attacked: [relay[1], splice[1]] })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Connections that carry load during a measurement.
struct Loaded {
    scene: Scene,
    pairs: Vec<AddressPair>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    ends: Vec<TcpStream>,
}

#[derive(Default)]
struct Shared {
    runs: AtomicBool,
    is_over: AtomicBool,
    done: AtomicU64,
}

/// Length of a request and of an answer in bytes.
const MESSAGE: usize = 64;

impl Loaded {
    fn start(scene: Scene, load: Load, known: KnownPair) -> Self {
        let shared = Arc::new(Shared::default());
        let (mut threads, mut pairs, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let connections = match load {
            Load::Requests(connections) => connections,
            Load::Bulk => 1,
        };
        for _ in 0..connections {
            let victim = scene.victim();
            pairs.extend(victim.pairs(known).expect("the pairs"));
            let Victim { ends: [client, server], .. } = victim;
            let clones = [&client, &server].map(|end| end.try_clone().expect("dup"));
            ends.extend([client, server]);
            let [client, server] = clones;
            let shared = Arc::clone(&shared);
            match load {
                Load::Requests(_) => {
                    threads.push(thread::spawn(move || answer(&server)));
                    threads.push(thread::spawn(move || ask(&client, &shared)));
                }
                Load::Bulk => {
                    let own = Arc::clone(&shared);
                    threads.push(thread::spawn(move || pour(&server, &own)));
                    threads.push(thread::spawn(move || drink(&client, &shared)));
                }
            }
        }
        Self { scene, pairs, shared, threads, ends }
    }

    /// Requests or bytes a second.
    fn measure(&self, time: Duration, rate: Option<u32>) -> f64 {
        let network = self.scene.network();
        let attack_thread = rate.map(|rate| {
            BackgroundAttack::start(network, AttackKind::Ack, self.pairs.clone(), Some(rate))
        });
        let (begun, before) = (Instant::now(), self.shared.done.load(Relaxed));
        self.shared.runs.store(true, Relaxed);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        // This sleep is the length of the measurement; it waits for no state.
        thread::sleep(time);
        let done = self.shared.done.load(Relaxed) - before;
        let took = begun.elapsed();
        self.shared.runs.store(false, Relaxed);
        drop(attack_thread);
        done as f64 / took.as_secs_f64()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for end in &self.ends {
            // The connection may already be broken.
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        for thread in self.threads.drain(..) {
            // The thread returns the end of its socket as an error.
            let _ = thread.join();
        }
    }
}

fn ask(end: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        wait_for(shared)?;
        (&*end).write_all(&message)?;
        read_patiently(end, &mut message)?;
        shared.done.fetch_add(1, Relaxed);
    }
}

fn answer(mut end: &TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        read_patiently(end, &mut message)?;
        end.write_all(&message)?;
    }
}

fn pour(mut end: &TcpStream, shared: &Shared) -> io::Result<()> {
    let chunk = vec![super::packet::BYTE; 64 << 10];
    loop {
        wait_for(shared)?;
        match end.write(&chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => outcome.map(drop)?,
        }
    }
}

fn drink(mut end: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        match end.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                shared.done.fetch_add(read as u64, Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until a measurement runs.
///
/// # Errors
/// When no further measurement follows.
fn wait_for(shared: &Shared) -> io::Result<()> {
    while !shared.runs.load(Relaxed) {
        if shared.is_over.load(Relaxed) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// Reads a whole message, without a time limit.
fn read_patiently(mut end: &TcpStream, message: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < message.len() {
        match end.read(&mut message[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
