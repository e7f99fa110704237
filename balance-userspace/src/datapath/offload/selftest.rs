//! The self-test of a kernel datapath: proves that it moves bytes correctly on this kernel, before
//! any client is served on it.
//!
//! The test carries one connection over loopback. Bytes arrive before the datapath takes the
//! connection over. Both directions move bytes. A receiver stalls: its sender is held up, and after
//! the stall the receiver gets every byte. One direction ends before the other. The peers compare
//! every byte, and the kernel must have moved some of them.
//!
//! Invariant: the test ends within a few times [`peers::LIMIT`], whatever the kernel does.

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

/// The size of the sockets' buffers, in bytes before the kernel doubles it: a few segments of
/// loopback fit, and filling a buffer takes little time.
const BUFFER: usize = 256 << 10;

/// Runs the test on sockets with these options. `carry` makes the datapath carry a pair, and never
/// returns if the datapath does not accept the pair.
///
/// # Errors
/// A description of what the datapath did wrong.
pub(crate) fn run(
    options: SocketOptions,
    carry: impl AsyncFnOnce(&Pair, &BufferPool) -> ConnectionReport,
) -> Result<(), String> {
    let pair = || pair(options).map_err(|e| format!("no loopback connection: {e}"));
    let (mut client, near_client) = pair()?;
    let (backend, near_backend) = pair()?;
    // The datapath does not have the connection yet.
    peers::begin(&mut client).map_err(|e| format!("client: {e}"))?;
    let traffic = Arc::new(Traffic::default());
    let (flooded, flood) = mpsc::channel();
    let client = thread::spawn(move || peers::client(client, &flooded));
    let seen = Arc::clone(&traffic);
    let backend = thread::spawn(move || peers::backend(backend, &seen, &flood));
    let report = drive(carry, near_client, near_backend, &traffic);
    let result_of = |name: &str, peer: thread::JoinHandle<Result<u64, String>>| match peer.join() {
        Ok(result) => result.map_err(|e| format!("{name}: {e}")),
        Err(_) => Err(format!("{name}: panicked")),
    };
    let ended = || match &report {
        Ok(report) => report.end.to_string(),
        Err(e) => e.clone(),
    };
    // The error of one peer may be only a consequence of the other's, so report both.
    let expected = match (result_of("client", client), result_of("backend", backend)) {
        (Ok(sent), Ok(rcvd)) => (sent, rcvd),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => return Err(format!("{e}; end: {}", ended())),
        (Err(e), Err(f)) => return Err(format!("{e}; {f}; end: {}", ended())),
    };
    let report = report?;
    let moved = traffic.read();
    match report {
        ConnectionReport { end: ConnectionEnd::Clean, .. } if moved == expected => {
            if traffic.offloaded() == 0 {
                Err("the BPF program saw no packet".to_owned())
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

/// Carries the pair in a runtime of its own.
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
            () = tokio::time::sleep(LIMIT) => Err("timed out".to_owned()),
        }
    })
}

/// The two ends of a loopback connection: the peer's end, and the end for the datapath.
fn pair(options: SocketOptions) -> io::Result<(TcpStream, TcpStream)> {
    // All ports of 127.0.0.1 may be in use. The kernel never chooses 127.84.67.80 as a source
    // address, so its ports are free. ::1 is for a host without IPv4 loopback addresses.
    let addresses: [IpAddr; 3] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 84, 67, 80).into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let listener = TcpListener::bind(&addresses.map(|ip| SocketAddr::new(ip, 0))[..])?;
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
