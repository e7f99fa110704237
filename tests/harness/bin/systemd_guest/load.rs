//! Clients that connect and hold connections while the service changes.
//!
//! Invariant: a connection counts as passed only if the server's name arrives through it.

use std::{
    fmt,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tests::{TIMEOUT, connect};

/// Number of connections that stay open.
const HELD: usize = 5;

/// Pause after a connection. An emulated processor has to serve both sides.
const PAUSE: Duration = Duration::from_millis(25);

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    connecting: JoinHandle<Counts>,
    held: Vec<TcpStream>,
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Number of connects.
    pub(crate) connects: usize,
    /// Connects that were refused.
    pub(crate) refused: usize,
    /// Connections that ended without the server's name.
    pub(crate) broken: usize,
    /// The longest time from connect to the server's name.
    pub(crate) longest: Duration,
    /// Held connections that were cut.
    pub(crate) cut: usize,
}

impl Load {
    /// Starts clients of a listener whose servers echo after their names.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let held = (0..HELD).map(|_| open(address)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let connecting = thread::spawn(move || {
            let mut counts = Counts::default();
            while !stopped.load(Relaxed) {
                counts.visit(address);
                thread::sleep(PAUSE);
            }
            counts
        });
        Self { stop, connecting, held }
    }

    /// Stops the clients and returns the counts.
    pub(crate) fn finish(self) -> Counts {
        self.stop.store(true, Relaxed);
        let mut counts = self.connecting.join().expect("the connecting client");
        counts.cut =
            self.held.into_iter().filter_map(|mut held| (!echoes(&mut held)).then_some(())).count();
        counts
    }
}

impl Counts {
    fn visit(&mut self, address: SocketAddr) {
        let started = Instant::now();
        self.connects += 1;
        match name(address) {
            Ok(()) => self.longest = self.longest.max(started.elapsed()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.refused += 1,
            Err(_) => self.broken += 1,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connects, refused, broken, longest, cut } = self;
        write!(f, "{refused} of {connects} connects refused, {broken} broken, ")?;
        write!(f, "the longest took {} ms, ", longest.as_millis())?;
        write!(f, "{cut} of {HELD} held connections cut")
    }
}

/// Connects and reads the first byte of the server's name.
pub(crate) fn name(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.read_exact(&mut [0])
}

/// Opens a connection, after one byte each way.
pub(crate) fn open(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    let mut name = [0];
    stream.read_exact(&mut name).expect("the server's name");
    assert!(echoes(&mut stream), "{address} does not echo");
    stream
}

/// Returns whether the server at the other end still answers.
pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let exchanged = stream.write_all(b"?").and_then(|()| stream.read_exact(&mut byte));
    exchanged.is_ok() && &byte == b"?"
}
