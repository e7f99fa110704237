//! One connection whose sequence numbers wrap.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Instant,
};

use tests::{Datapath, Link, note, on_each_datapath};

/// More than the sequence number space.
const SIZE: u64 = 5 << 30;

/// Length of the repeated pattern in bytes. It is prime, so lost or duplicated bytes almost
/// certainly change the stream.
const PERIOD: usize = 1_048_573;

/// Bytes of one write or read.
const CHUNK: usize = 512 << 10;

fn five_gib_each_way_at_once_on_one_connection(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    let start = Instant::now();
    let patterns = [1, 2].map(pattern);
    thread::scope(|scope| {
        for (from, to, pattern) in
            [(&client, &server, &patterns[0]), (&server, &client, &patterns[1])]
        {
            scope.spawn(move || send_repeatedly(from, pattern).expect("sending"));
            scope.spawn(move || receive_and_compare(to, pattern).expect("receiving"));
        }
    });
    note(&format!("{datapath:?}: {SIZE} bytes each way in {:?}", start.elapsed()));
    drop((client, server));
    link.balance.assert_all_handed_over(1);
    let stopped = link.balance.stop();
    assert_eq!((stopped.sent, stopped.rcvd), (SIZE + 1, SIZE + 1));
}

on_each_datapath!(five_gib_each_way_at_once_on_one_connection);

/// The pattern of a seed, extended by one chunk, so that a chunk can start anywhere in the period.
fn pattern(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.extend_from_within(..CHUNK);
    bytes
}

/// The bytes at `position`: at most a chunk, and not beyond the end of the stream.
fn at(pattern: &[u8], position: u64) -> &[u8] {
    let start = (position % PERIOD as u64) as usize;
    &pattern[start..start + CHUNK.min((SIZE - position) as usize)]
}

fn send_repeatedly(mut stream: &TcpStream, pattern: &[u8]) -> io::Result<()> {
    let mut position = 0;
    while position < SIZE {
        position += stream.write(at(pattern, position))? as u64;
    }
    Ok(())
}

fn receive_and_compare(mut stream: &TcpStream, pattern: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    while position < SIZE {
        let expected = at(pattern, position);
        let read = stream.read(&mut buffer[..expected.len()])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // assert_eq would print both chunks.
        assert!(buffer[..read] == expected[..read], "other bytes than were sent after {position}");
        position += read as u64;
    }
    Ok(())
}
