//! The two peers of the self-test, which send messages in turns.
//!
//! Invariants: a peer compares every byte that it receives. A peer never waits for ever: it returns
//! an error, or the number of bytes that it has sent.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::datapath::traffic::Traffic;

/// The longest time for the test, and for the wait of a peer for a byte.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// The bytes of a message.
const MESSAGE: usize = 48 << 10;

/// The messages of each side.
const ROUNDS: usize = 8;

/// The round before which the backend sends nothing until the kernel moves the bytes. Peers that
/// are always faster than user space would leave no moment for the hand-over.
const PAUSE_ROUND: usize = ROUNDS / 2;

/// The round before which the backend stalls until the client can send no more.
const STALL_ROUND: usize = PAUSE_ROUND + 1;

/// A sender that can write nothing for this time is held up.
const HELD_UP: Duration = Duration::from_millis(20);

/// The most bytes that a stalled receiver may be sent: what a connection holds at most (see
/// docs/limits.md).
const MAX_HELD: usize = 16 << 20;

/// The sender of a message.
#[derive(Clone, Copy)]
enum Sender {
    Client,
    Backend,
}

/// Sends the message that arrives before the datapath takes the connection over.
pub(super) fn begin(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&message(Sender::Client, 0))
}

/// Runs the client after [`begin`]. The client reports the number of bytes that it could send to
/// the stalled backend, and is the first to send FIN.
pub(super) fn client(mut stream: TcpStream, flooded: &mpsc::Sender<usize>) -> Result<u64, String> {
    let mut flood = 0;
    for round in 0..ROUNDS {
        if round == STALL_ROUND {
            flood = send_until_held_up(&mut stream)?;
            // A backend that has failed returns an error itself.
            let _ = flooded.send(flood);
        }
        if round > 0 {
            send(&mut stream, Sender::Client, round)?;
        }
        if round == ROUNDS - 1 {
            stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        }
        receive(&mut stream, Sender::Backend, round, MESSAGE)?;
    }
    end(&mut stream)?;
    Ok((MESSAGE * ROUNDS + flood) as u64)
}

/// Runs the backend, which answers each message.
pub(super) fn backend(
    mut stream: TcpStream,
    traffic: &Traffic,
    flooded: &mpsc::Receiver<usize>,
) -> Result<u64, String> {
    for round in 0..ROUNDS {
        if round == PAUSE_ROUND {
            let begun = Instant::now();
            while !traffic.is_moved_by_kernel() && begun.elapsed() < LIMIT {
                thread::sleep(Duration::from_micros(200));
            }
        }
        if round == STALL_ROUND {
            let flood = flooded.recv_timeout(LIMIT);
            let flood = flood.map_err(|_| "the client was not held up")?;
            for (i, at) in (0..flood).step_by(MESSAGE).enumerate() {
                receive(&mut stream, Sender::Client, ROUNDS + i, MESSAGE.min(flood - at))?;
            }
        }
        receive(&mut stream, Sender::Client, round, MESSAGE)?;
        send(&mut stream, Sender::Backend, round)?;
    }
    stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
    end(&mut stream)?;
    Ok((MESSAGE * ROUNDS) as u64)
}

/// Sends messages until no more can be written; the last one may be sent in part. Returns the
/// number of bytes.
fn send_until_held_up(stream: &mut TcpStream) -> Result<usize, String> {
    stream.set_write_timeout(Some(HELD_UP)).map_err(|e| e.to_string())?;
    let (mut sent, mut text) = (0, Vec::new());
    let result = loop {
        if sent > MAX_HELD {
            break Err(format!("a stalled receiver was sent {sent} bytes"));
        }
        if sent % MESSAGE == 0 {
            text = message(Sender::Client, ROUNDS + sent / MESSAGE);
        }
        match stream.write(&text[sent % MESSAGE..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(sent),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => break Err(e.to_string()),
        }
    };
    stream.set_write_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
    result
}

fn send(stream: &mut TcpStream, from: Sender, number: usize) -> Result<(), String> {
    stream.write_all(&message(from, number)).map_err(|e| e.to_string())
}

/// Receives the first `len` bytes of a message.
fn receive(stream: &mut TcpStream, from: Sender, number: usize, len: usize) -> Result<(), String> {
    let mut got = vec![0; len];
    stream.read_exact(&mut got).map_err(|e| format!("message {number}: {e}"))?;
    if got != message(from, number)[..len] {
        return Err(format!("message {number} was changed"));
    }
    Ok(())
}

/// Receives the FIN of the other direction.
fn end(stream: &mut TcpStream) -> Result<(), String> {
    match stream.read_to_end(&mut Vec::new()).map_err(|e| format!("at the end: {e}"))? {
        0 => Ok(()),
        _ => Err("received more bytes than were sent".to_owned()),
    }
}

/// The content of a message. Each message is different.
fn message(from: Sender, number: usize) -> Vec<u8> {
    let salt = from as usize * 101 + number * 7;
    (0..MESSAGE).map(|i| (i * 31 + i / 251 + salt) as u8).collect()
}
