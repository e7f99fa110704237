//! Proof that a datapath moves bytes as it should on this kernel, before anything is served on
//! it.
//!
//! A connection over loopback: data that came before the datapath had it, both directions, a
//! receiver that stands still, holds its sender up and gets everything when it goes on, half-close,
//! content compared, and the kernel must really have moved some. Invariant: ends within a few times
//! [`peers::LIMIT`] whatever the kernel does.

mod peers;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

use socket2::SockRef;

use peers::LIMIT;

use crate::datapath::{
    end::{ConnectionEnd, ConnectionReport},
    pair::Pair,
    relay::buffers::BufferPool,
    traffic::Traffic,
};
use crate::{
    io::ring,
    io::stream::{SocketOptions, Stream},
};

/// Buffers of the sockets, in bytes before the kernel doubles them: no smaller than a few segments of
/// loopback, and so small that it does not take long to fill them.
const BUFFER: usize = 256 << 10;

/// Runs the test on sockets that are made with these options. `carry` has the datapath carry a
/// pair, for ever if the datapath does not take it.
///
/// # Errors
/// What was not as it should be.
pub(crate) fn run(
    options: SocketOptions,
    carry: impl AsyncFnOnce(&Pair, &BufferPool) -> ConnectionReport,
) -> Result<(), String> {
    let pair = || pair(options).map_err(|e| format!("no loopback connection: {e}"));
    let (mut client, near_client) = pair()?;
    let (backend, near_backend) = pair()?;
    // Before the datapath has it.
    peers::begin(&mut client).map_err(|e| format!("client: {e}"))?;
    let traffic = Arc::new(Traffic::default());
    let (flooded, flood) = mpsc::channel();
    let client = thread::spawn(move || peers::client(client, &flooded));
    let seen = Arc::clone(&traffic);
    let backend = thread::spawn(move || peers::backend(backend, &seen, &flood));
    let report = drive(carry, near_client, near_backend, &traffic);
    let said = |name: &str, peer: thread::JoinHandle<Result<u64, String>>| match peer.join() {
        Ok(result) => result.map_err(|e| format!("{name}: {e}")),
        Err(_) => Err(format!("{name}: it panicked")),
    };
    let ended = || match &report {
        Ok(report) => report.end.to_string(),
        Err(e) => e.clone(),
    };
    // What is wrong with one of them may only be what has become of the other.
    let expected = match (said("client", client), said("backend", backend)) {
        (Ok(sent), Ok(rcvd)) => (sent, rcvd),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => return Err(format!("{e}; end: {}", ended())),
        (Err(e), Err(f)) => return Err(format!("{e}; {f}; end: {}", ended())),
    };
    let report = report?;
    let moved = traffic.read();
    match report {
        ConnectionReport { end: ConnectionEnd::Clean, .. } if moved == expected => {
            if traffic.offloaded() == 0 {
                Err("the program saw no packet".to_owned())
            } else {
                Ok(())
            }
        }
        ConnectionReport { end, .. } => Err(format!(
            "{} of {} and {} of {} bytes counted, end: {end}",
            moved.0, expected.0, moved.1, expected.1
        )),
    }
}

/// Carries the pair on a ring of its own.
fn drive(
    carry: impl AsyncFnOnce(&Pair, &BufferPool) -> ConnectionReport,
    client: TcpStream,
    backend: TcpStream,
    traffic: &Arc<Traffic>,
) -> Result<ConnectionReport, String> {
    let runtime = ring::runtime().map_err(|e| format!("no io_uring: {e}"))?;
    runtime.block_on(async {
        let pair = Pair {
            client: Stream::new(client),
            backend: Stream::new(backend),
            traffic: Arc::clone(traffic),
            abort: Arc::default(),
        };
        let pool = BufferPool::default();
        tokio::select! {
            report = carry(&pair, &pool) => Ok(report),
            () = tokio::time::sleep(LIMIT) => Err("it took too long".to_owned()),
        }
    })
}

/// Two ends of a loopback connection: the peer's, and the one that is carried.
fn pair(options: SocketOptions) -> io::Result<(TcpStream, TcpStream)> {
    // All ports of 127.0.0.1 may be in use. The kernel never chooses 127.84.67.80 as a source address, so
    // its ports are free. ::1 is for a host without loopback addresses of IPv4.
    let places: [IpAddr; 3] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 84, 67, 80).into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let listener = TcpListener::bind(&places.map(|ip| SocketAddr::new(ip, 0))[..])?;
    options.apply(&SockRef::from(&listener))?;
    SockRef::from(&listener).set_recv_buffer_size(BUFFER)?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    SockRef::from(&peer).set_recv_buffer_size(BUFFER)?;
    SockRef::from(&peer).set_send_buffer_size(BUFFER)?;
    peer.set_read_timeout(Some(LIMIT))?;
    peer.set_write_timeout(Some(LIMIT))?;
    Ok((peer, listener.accept()?.0))
}

#[cfg(test)]
mod tests;
