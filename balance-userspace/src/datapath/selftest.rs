//! Proof that a datapath moves bytes as it should on this kernel, before anything is served on
//! it.
//!
//! A connection over loopback: data that came before the datapath had it, both directions,
//! half-close, content compared, and the kernel must really have moved some. Invariant: ends
//! within [`LIMIT`] whatever the kernel does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{End, Pair, Pool, Report, Traffic};
use crate::{
    stream::{SocketOptions, Stream},
    worker,
};

/// The longest that the test may take, and that one of its peers waits for a byte.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a message; each side sends one in turn.
const MESSAGE: usize = 48 << 10;

/// Messages of each side.
const ROUNDS: usize = 8;

/// Runs the test on sockets that are made with these options. `carry` has the datapath carry a
/// pair, for ever if the datapath does not take it.
///
/// # Errors
/// What was not as it should be.
pub(super) fn run(
    options: SocketOptions,
    carry: impl AsyncFnOnce(&Pair, &Pool) -> Report,
) -> Result<(), String> {
    let pair = || pair(options).map_err(|e| format!("no loopback connection: {e}"));
    let (mut client, near_client) = pair()?;
    let (backend, near_backend) = pair()?;
    // Before the datapath has it.
    send(&mut client, 0, 0).map_err(|e| format!("client: {e}"))?;
    let traffic = Arc::new(Traffic::default());
    let client = thread::spawn(move || talk(client, 0, None));
    let seen = Arc::clone(&traffic);
    let backend = thread::spawn(move || talk(backend, 1, Some(&seen)));
    let report = drive(carry, near_client, near_backend, &traffic);
    let ended = match &report {
        Ok(report) => report.end.to_string(),
        Err(e) => e.clone(),
    };
    let said = |name: &str, peer: thread::JoinHandle<Result<(), String>>| match peer.join() {
        Ok(result) => result.map_err(|e| format!("{name}: {e}; end: {ended}")),
        Err(_) => Err(format!("{name}: it panicked")),
    };
    said("client", client)?;
    said("backend", backend)?;
    let report = report?;
    let moved = traffic.read();
    let expected = (MESSAGE * ROUNDS) as u64;
    match report {
        Report { end: End::Clean, .. } if moved == (expected, expected) => {
            if traffic.offloaded() == 0 {
                Err("the program saw no packet".to_owned())
            } else {
                Ok(())
            }
        }
        Report { end, .. } => {
            Err(format!("{} and {} of {expected} bytes counted, end: {end}", moved.0, moved.1))
        }
    }
}

/// Carries the pair on a ring of its own.
fn drive(
    carry: impl AsyncFnOnce(&Pair, &Pool) -> Report,
    client: TcpStream,
    backend: TcpStream,
    traffic: &Arc<Traffic>,
) -> Result<Report, String> {
    let runtime = worker::runtime().map_err(|e| format!("no io_uring: {e}"))?;
    runtime.block_on(async {
        let pair = Pair {
            client: Stream::new(client),
            backend: Stream::new(backend),
            traffic: Arc::clone(traffic),
            cut: Arc::default(),
        };
        let pool = Pool::default();
        tokio::select! {
            report = carry(&pair, &pool) => Ok(report),
            () = tokio::time::sleep(LIMIT) => Err("it took too long".to_owned()),
        }
    })
}

/// Two ends of a loopback connection: the peer's, and the one that is carried.
fn pair(options: SocketOptions) -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    options.apply(&SockRef::from(&listener))?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    peer.set_read_timeout(Some(LIMIT))?;
    peer.set_write_timeout(Some(LIMIT))?;
    Ok((peer, listener.accept()?.0))
}

/// One side of the conversation; side 0 has sent its first message already. Each side ends its
/// direction after its last message, side 0 first. With `traffic` it is silent in the middle
/// until the kernel moves the bytes: two peers that are always quicker than user space would
/// leave it no moment to hand them over.
fn talk(mut stream: TcpStream, side: usize, traffic: Option<&Traffic>) -> Result<(), String> {
    for round in 0..ROUNDS {
        if let Some(traffic) = traffic.filter(|_| round == ROUNDS / 2) {
            let begin = Instant::now();
            while !traffic.is_moved_by_kernel() && begin.elapsed() < LIMIT {
                thread::sleep(Duration::from_micros(200));
            }
        }
        if side == 0 && round > 0 {
            send(&mut stream, side, round).map_err(|e| e.to_string())?;
        }
        if side == 0 && round == ROUNDS - 1 {
            stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        }
        let mut got = vec![0; MESSAGE];
        stream.read_exact(&mut got).map_err(|e| format!("message {round}: {e}"))?;
        if got != message(1 - side, round) {
            return Err(format!("message {round} was changed on its way"));
        }
        if side == 1 {
            send(&mut stream, side, round).map_err(|e| e.to_string())?;
        }
    }
    if side == 1 {
        stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
    }
    match stream.read(&mut [0]).map_err(|e| format!("at the end: {e}"))? {
        0 => Ok(()),
        _ => Err("more came than was sent".to_owned()),
    }
}

fn send(stream: &mut impl Write, side: usize, round: usize) -> std::io::Result<()> {
    stream.write_all(&message(side, round))
}

/// A message that no other one is alike.
fn message(side: usize, round: usize) -> Vec<u8> {
    (0..MESSAGE).map(|i| (i * 31 + i / 251 + side * 101 + round * 7) as u8).collect()
}
