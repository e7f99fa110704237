//! The attacked connection: both of its ends, and the bytes that have passed.
//!
//! Invariant: harm is returned as an error and not by a panic, because an attack is judged by it.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use nix::libc::{MSG_DONTWAIT, MSG_PEEK};
use socket2::SockRef;

use super::packet::{AddressPair, BYTE};
use crate::{End, end_of, raw_segment::sequence_numbers};

/// How long a transfer may make no progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The address pair that an attacker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownPair {
    /// The client's and the balancer's.
    Client,
    /// The server's and the balancer's.
    Server,
    /// Both pairs.
    Both,
}

impl std::fmt::Display for KnownPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            KnownPair::Client => "client",
            KnownPair::Server => "server",
            KnownPair::Both => "both",
        })
    }
}

impl KnownPair {
    /// All values.
    pub const ALL: [Self; 3] = [KnownPair::Client, KnownPair::Server, KnownPair::Both];

    fn peers(self) -> &'static [usize] {
        match self {
            KnownPair::Client => &[0],
            KnownPair::Server => &[1],
            KnownPair::Both => &[0, 1],
        }
    }
}

/// Both ends of a connection through the program.
#[derive(Debug)]
pub struct Victim {
    /// Client end and server end.
    pub ends: [TcpStream; 2],
    /// Bytes that each end has sent and the other has received.
    pub carried: [u64; 2],
    /// Whether the client has ended its direction.
    pub is_half_closed: bool,
}

impl Victim {
    /// A connection that has carried `each` bytes each way.
    pub fn new(client: TcpStream, server: TcpStream, each: u64) -> Self {
        let ends = [client, server];
        for end in &ends {
            end.set_read_timeout(Some(STALL_TIMEOUT)).expect("SO_RCVTIMEO");
            end.set_write_timeout(Some(STALL_TIMEOUT)).expect("SO_SNDTIMEO");
        }
        Self { ends, carried: [each; 2], is_half_closed: false }
    }

    /// The client's address, which identifies the session.
    pub fn client(&self) -> SocketAddr {
        self.ends[0].local_addr().expect("getsockname")
    }

    /// The known pairs, with the peer as the source.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn pairs(&self, known: KnownPair) -> io::Result<Vec<AddressPair>> {
        let pair = |&peer: &usize| {
            let end = &self.ends[peer];
            Ok(AddressPair { from: end.local_addr()?, to: end.peer_addr()? })
        };
        known.peers().iter().map(pair).collect()
    }

    /// The next sequence number and acknowledgement of each known pair.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn numbers(&self, known: KnownPair) -> io::Result<Vec<[u32; 2]>> {
        let numbers = |&peer: &usize| sequence_numbers(&self.ends[peer]).map(|(a, b)| [a, b]);
        known.peers().iter().map(numbers).collect()
    }

    /// Checks that both ends are open.
    ///
    /// # Errors
    /// How an end was closed.
    pub fn stands(&self) -> Result<(), String> {
        (0..2).try_for_each(|end| self.end_stands(end))
    }

    /// Checks that one end is open. The kernel reports an error only once.
    ///
    /// # Errors
    /// How the end was closed.
    pub fn end_stands(&self, end: usize) -> Result<(), String> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match SockRef::from(&self.ends[end]).recv_with_flags(&mut byte, MSG_PEEK | MSG_DONTWAIT) {
            Ok(0) if self.is_half_closed && end == 1 => Ok(()),
            Ok(0) => Err(format!("the {} got a FIN", NAMES[end])),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(format!("the {}: {error}", NAMES[end])),
        }
    }

    /// Ends the client's direction and waits until the server reads the end.
    ///
    /// # Errors
    /// When the server does not read the end.
    pub fn end_client(&mut self) -> Result<(), String> {
        let failed = |error: io::Error| format!("ending the client's direction: {error}");
        self.ends[0].shutdown(Shutdown::Write).map_err(failed)?;
        self.is_half_closed = true;
        match self.ends[1].read(&mut [0]).map_err(failed)? {
            0 => Ok(()),
            _ => Err("the server got another byte of the client".to_owned()),
        }
    }

    /// Sends `each` bytes both directions at the same time.
    ///
    /// # Errors
    /// The failure.
    pub fn transfer(&mut self, each: u64) -> Result<(), String> {
        if self.is_half_closed {
            return self.send_from(1, each);
        }
        let [client, server] = &self.ends;
        let directions =
            [("client to server", client, server), ("server to client", server, client)];
        thread::scope(|scope| {
            let running = directions.map(|(name, from, to)| {
                (
                    name,
                    scope.spawn(move || send(from, each)),
                    scope.spawn(move || receive(to, each)),
                )
            });
            for (name, sent, received) in running {
                let sent = sent.join().expect("the sender");
                received.join().expect("the receiver").map_err(|e| format!("{name}: {e}"))?;
                sent.map_err(|e| format!("{name}, sending: {e}"))?;
            }
            Ok::<_, String>(())
        })?;
        self.carried = self.carried.map(|before| before + each);
        Ok(())
    }

    /// Sends `len` bytes from one end to the other.
    ///
    /// # Errors
    /// The failure.
    pub fn send_from(&mut self, from: usize, len: u64) -> Result<(), String> {
        let (source, target) = (&self.ends[from], &self.ends[1 - from]);
        send(source, len).map_err(|e| format!("{}, sending: {e}", NAMES[from]))?;
        receive(target, len).map_err(|e| format!("from the {}: {e}", NAMES[from]))?;
        self.carried[from] += len;
        Ok(())
    }

    /// Sends `each` bytes both directions, one end after the other.
    ///
    /// # Errors
    /// The failure.
    pub fn exchange(&mut self, first: usize, each: u64) -> Result<(), String> {
        self.send_from(first, each)?;
        self.send_from(1 - first, each)
    }

    /// Ends both directions.
    ///
    /// # Errors
    /// When an end is not clean.
    pub fn end(mut self) -> Result<(), String> {
        for (end, name) in self.ends.iter().zip(NAMES) {
            let shut = end.shutdown(Shutdown::Write);
            shut.map_err(|error| format!("ending the {name}'s direction: {error}"))?;
        }
        for (end, name) in self.ends.iter_mut().zip(NAMES) {
            let read = end
                .read(&mut [0])
                .map_err(|error| format!("the {name} before its end: {error}"))?;
            if read > 0 || end_of(end) != End::Clean {
                return Err(format!("the {name} got no FIN"));
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 2] = ["client", "server"];

fn send(mut to: &TcpStream, mut len: u64) -> io::Result<()> {
    let chunk = [BYTE; 32 << 10];
    while len > 0 {
        let next = len.min(chunk.len() as u64) as usize;
        to.write_all(&chunk[..next])?;
        len -= next as u64;
    }
    Ok(())
}

fn receive(mut from: &TcpStream, len: u64) -> Result<(), String> {
    let mut chunk = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let room = left.min(chunk.len() as u64) as usize;
        let read = match from.read(&mut chunk[..room]) {
            Ok(0) => return Err(format!("FIN, {left} of {len} bytes early")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(format!("no progress, {left} of {len} bytes are missing"));
            }
            Err(error) => return Err(format!("{error}, {left} of {len} bytes are missing")),
        };
        if chunk[..read].iter().any(|&byte| byte != BYTE) {
            return Err("a byte that was not sent".to_owned());
        }
        left -= read as u64;
    }
    Ok(())
}
