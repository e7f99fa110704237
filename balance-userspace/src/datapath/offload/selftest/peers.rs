//! The two peers of a self-test, which take turns to speak.
//!
//! Invariant: each says what went wrong instead of waiting for ever, and compares every byte that it
//! gets. They say how many bytes they have sent.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc::{Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::datapath::traffic::Traffic;

/// The longest that the test may take, and that one of its peers waits for a byte.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a message.
const MESSAGE: usize = 48 << 10;

/// Messages of each side.
const ROUNDS: usize = 8;

/// The round before which the backend is silent until the kernel moves the bytes: two peers that are
/// always quicker than user space would leave it no moment to hand them over.
const SILENT: usize = ROUNDS / 2;

/// The round before which the backend reads nothing until nothing more can be sent to it.
const STILL: usize = SILENT + 1;

/// A sender that could write nothing for so long is held up.
const HELD_UP: Duration = Duration::from_millis(20);

/// Bytes that a receiver which stands still may be sent: what a connection holds at most (README, What
/// to expect of it).
const MOST: usize = 16 << 20;

#[derive(Clone, Copy)]
enum Side {
    Client,
    Backend,
}

/// What the client says before it is anybody's.
pub(super) fn begin(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&message(Side::Client, 0))
}

/// The client, after it has begun. It tells the backend how much it could send while that stood still,
/// and is the first to end its direction.
pub(super) fn client(mut stream: TcpStream, flooded: &Sender<usize>) -> Result<u64, String> {
    let mut flood = 0;
    for round in 0..ROUNDS {
        if round == STILL {
            flood = send_until_held_up(&mut stream)?;
            // A backend that has gone says itself why.
            let _ = flooded.send(flood);
        }
        if round > 0 {
            send(&mut stream, Side::Client, round)?;
        }
        if round == ROUNDS - 1 {
            stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        }
        receive(&mut stream, Side::Backend, round, MESSAGE)?;
    }
    end(&mut stream)?;
    Ok((MESSAGE * ROUNDS + flood) as u64)
}

/// The backend, which answers.
pub(super) fn backend(
    mut stream: TcpStream,
    traffic: &Traffic,
    flooded: &Receiver<usize>,
) -> Result<u64, String> {
    for round in 0..ROUNDS {
        if round == SILENT {
            let begun = Instant::now();
            while !traffic.is_moved_by_kernel() && begun.elapsed() < LIMIT {
                thread::sleep(Duration::from_micros(200));
            }
        }
        if round == STILL {
            let flood = flooded.recv_timeout(LIMIT);
            let flood = flood.map_err(|_| "the client does not say that it is held up")?;
            for (i, at) in (0..flood).step_by(MESSAGE).enumerate() {
                receive(&mut stream, Side::Client, ROUNDS + i, MESSAGE.min(flood - at))?;
            }
        }
        receive(&mut stream, Side::Client, round, MESSAGE)?;
        send(&mut stream, Side::Backend, round)?;
    }
    stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
    end(&mut stream)?;
    Ok((MESSAGE * ROUNDS) as u64)
}

/// Sends message after message, the last one perhaps in part, until no more can be written; says how
/// many bytes that were.
fn send_until_held_up(stream: &mut TcpStream) -> Result<usize, String> {
    stream.set_write_timeout(Some(HELD_UP)).map_err(|e| e.to_string())?;
    let (mut sent, mut text) = (0, Vec::new());
    let result = loop {
        if sent > MOST {
            break Err(format!("a receiver that stands still was sent {sent} bytes"));
        }
        if sent % MESSAGE == 0 {
            text = message(Side::Client, ROUNDS + sent / MESSAGE);
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

fn send(stream: &mut TcpStream, from: Side, number: usize) -> Result<(), String> {
    stream.write_all(&message(from, number)).map_err(|e| e.to_string())
}

/// Takes the first `len` bytes of a message.
fn receive(stream: &mut TcpStream, from: Side, number: usize, len: usize) -> Result<(), String> {
    let mut got = vec![0; len];
    stream.read_exact(&mut got).map_err(|e| format!("message {number}: {e}"))?;
    if got != message(from, number)[..len] {
        return Err(format!("message {number} was changed on its way"));
    }
    Ok(())
}

/// Takes the end of the other direction.
fn end(stream: &mut TcpStream) -> Result<(), String> {
    match stream.read_to_end(&mut Vec::new()).map_err(|e| format!("at the end: {e}"))? {
        0 => Ok(()),
        _ => Err("more came than was sent".to_owned()),
    }
}

/// A message, unlike the others.
fn message(from: Side, number: usize) -> Vec<u8> {
    let salt = from as usize * 101 + number * 7;
    (0..MESSAGE).map(|i| (i * 31 + i / 251 + salt) as u8).collect()
}
