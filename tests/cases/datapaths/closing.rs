//! Half-close and reset pass through: a FIN on one side ends one direction, and a RST on one side
//! resets the other side.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, SockRef, Socket, Type};
use tests::{
    Backend, Builder, Datapath, End, Link, Pattern, RunDir, TIMEOUT, WHOLE_CHUNKS, both_ways,
    end_of, eventually, note, on_all_datapaths, receive_all, receive_exactly, reset, send,
};

/// More than all buffers on the path hold.
const BIG: u64 = 40 << 20;

fn a_half_closed_client_still_gets_a_big_answer(datapath: Datapath) {
    let link = Link::new(datapath);
    for (request, answer) in [(0, 1), (1, BIG), (BIG, 1), (100_000, 100_000)] {
        let (client, server) = link.pair();
        one_after_the_other((&client, request), (&server, answer));
    }
    link.balance.assert_all_on_its_datapath(4);
}

fn a_half_closed_server_still_gets_a_big_answer(datapath: Datapath) {
    let link = Link::new(datapath);
    for (greeting, answer) in [(0, 1), (1, BIG), (BIG, 1), (100_000, 100_000)] {
        let (client, server) = link.pair();
        one_after_the_other((&server, greeting), (&client, answer));
    }
    link.balance.assert_all_on_its_datapath(4);
}

fn both_sides_may_close_at_once_without_loss(datapath: Datapath) {
    let link = Link::new(datapath);
    for size in [0, 1, 70_000, BIG] {
        let (client, server) = link.pair();
        thread::scope(|scope| {
            let ends = [(&client, size), (&server, size + 1)].map(|(stream, len)| {
                let sent = scope.spawn(move || send_all_and_close(stream, len));
                let got = scope.spawn(move || receive_all(stream).expect("the other side's data"));
                (sent, got)
            });
            let [client, server] =
                ends.map(|(sent, got)| (sent.join().expect("sent"), got.join().expect("got")));
            assert_eq!(server.1, client.0, "what the server got");
            assert_eq!(client.1, server.0, "what the client got");
        });
    }
    link.balance.assert_all_on_its_datapath(4);
}

fn the_server_sees_the_clients_reset(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.pair();
    both_ways(&client, &server, (100_000, 100_000), WHOLE_CHUNKS);
    reset(client);
    assert_eq!(end_of(&mut server), End::Reset);
    expect_end(&link, datapath, "client reset");
}

fn the_client_sees_the_servers_reset(datapath: Datapath) {
    let link = Link::new(datapath);
    let (mut client, server) = link.pair();
    both_ways(&client, &server, (100_000, 100_000), WHOLE_CHUNKS);
    reset(server);
    assert_eq!(end_of(&mut client), End::Reset);
    expect_end(&link, datapath, "backend reset");
}

fn the_server_sees_a_reset_in_the_middle_of_a_transfer(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    reset_in_the_middle(client, server);
    expect_end(&link, datapath, "client reset");
}

fn the_client_sees_a_reset_in_the_middle_of_a_transfer(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    reset_in_the_middle(server, client);
    expect_end(&link, datapath, "backend reset");
}

fn a_reset_passes_through_after_a_half_close(datapath: Datapath) {
    let link = Link::new(datapath);
    let (mut client, mut server) = link.pair();
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(end_of(&mut server), End::Clean);
    reset(server);
    assert_eq!(end_of(&mut client), End::Reset);

    let (client, mut server) = link.pair();
    server.shutdown(Shutdown::Write).expect("shutdown");
    let mut reader = client.try_clone().expect("dup");
    assert_eq!(end_of(&mut reader), End::Clean);
    drop(reader);
    reset(client);
    assert_eq!(end_of(&mut server), End::Reset);
    link.balance.assert_all_on_its_datapath(2);
}

fn a_server_that_writes_to_a_closed_client_gets_an_error(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.pair();
    drop(client);
    assert_eq!(end_of(&mut server), End::Clean);
    // The kernel answers data for a closed socket with a RST.
    eventually(Duration::from_secs(20), "writes fail", || {
        match server.write_all(b"are you there?") {
            Ok(()) => Err("a write succeeded"),
            Err(_) => Ok(()),
        }
        .map_err(str::to_owned)
    });
    link.balance.assert_all_on_its_datapath(1);
}

fn the_client_sees_a_reset_without_reading(datapath: Datapath) {
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    reset_after_filling(server, &client);
}

fn the_server_sees_a_reset_without_reading(datapath: Datapath) {
    let link = Link::small(datapath);
    let (client, server) = link.small_pair();
    reset_after_filling(client, &server);
}

fn a_line_before_an_immediate_reset_arrives(datapath: Datapath) {
    rejected(datapath, Ipv4Addr::LOCALHOST.into(), b"");
}

fn a_line_before_an_immediate_reset_arrives_over_ipv6(datapath: Datapath) {
    rejected(datapath, Ipv6Addr::LOCALHOST.into(), b"");
}

/// What a server sends before it ends a session.
const BYE: &[u8] = b"221 Bye\r\n";

fn the_last_line_before_a_reset_arrives(datapath: Datapath) {
    const TIMES: usize = 40;
    let link = Link::new(datapath);
    for turn in 0..TIMES {
        let (client, server) = link.pair_after(10);
        let (mut from, to) = if turn % 2 == 0 { (server, client) } else { (client, server) };
        from.write_all(BYE).expect("the last line");
        reset(from);
        assert_eq!(until_reset(&to), BYE, "turn {turn}");
    }
    link.balance.assert_all_on_its_datapath(TIMES);
    assert_eq!(link.balance.stop().broken, TIMES as u64);
}

/// Like a server that rejects a message while the client still sends it.
fn an_answer_before_a_reset_arrives_while_its_receiver_sends(datapath: Datapath) {
    const TIMES: usize = 20;
    let link = Link::new(datapath);
    for turn in 0..TIMES {
        let (client, server) = link.pair();
        let (mut from, mut to) = if turn % 2 == 0 { (server, client) } else { (client, server) };
        let rejecting = thread::spawn(move || {
            receive_exactly(&from, 3 << 20).expect("the first part");
            from.write_all(BYE).expect("the answer");
            reset(from);
        });
        while to.write_all(&[7; 64 << 10]).is_ok() {}
        rejecting.join().expect("the sender");
        let mut got = Vec::new();
        // The read fails: a write has already returned the reset.
        let _ = to.read_to_end(&mut got);
        assert_eq!(got, BYE, "turn {turn}");
    }
    link.balance.assert_all_on_its_datapath(TIMES);
}

/// More than the sockets of a small pair hold, and less than the whole path holds.
fn bytes_buffered_before_a_reset_arrive(datapath: Datapath) {
    const LEN: u64 = 1 << 20;
    if datapath == Datapath::Splice {
        return note(
            "bytes beyond the receiver's window stay at the sender, as on a direct connection",
        );
    }
    let link = Link::small(datapath);
    for turn in 0..4 {
        let (client, server) = link.small_pair();
        let (from, to) = if turn % 2 == 0 { (server, client) } else { (client, server) };
        let sent = send(&from, Pattern::new(LEN, LEN), WHOLE_CHUNKS, |_| {}).expect("sending");
        // The sender's kernel drops unacknowledged bytes when it sends a RST.
        eventually(TIMEOUT, "all has been acknowledged", || match unacknowledged(&from) {
            0 => Ok(()),
            len => Err(format!("{len} bytes have not")),
        });
        reset(from);
        assert_eq!(receive_exactly(&to, LEN).expect("all bytes"), sent, "turn {turn}");
        assert_eq!(until_reset(&to), b"", "turn {turn}");
    }
}

fn a_closed_client_may_reset_the_last_line(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.settled_pair();
    drop(client);
    assert_eq!(end_of(&mut server), End::Clean);
    server.write_all(BYE).expect("the last line");
    expect_error(&server);
    drop(server);
    expect_clean_end(link, datapath);
}

fn a_client_may_close_with_the_last_line_unread(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.settled_pair();
    server.write_all(BYE).expect("the last line");
    drop(server);
    eventually(TIMEOUT, "the server's end", || {
        let mut entry = [PollFd::new(client.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
        match poll(&mut entry, PollTimeout::ZERO).expect("poll") {
            0 => Err("not there".to_owned()),
            _ => Ok(()),
        }
    });
    drop(client);
    expect_clean_end(link, datapath);
}

fn a_closed_server_may_get_a_last_line(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.settled_pair();
    server.write_all(b"421 timeout\r\n").expect("the last line");
    drop(server);
    receive_all(&client).expect("the last line and the end");
    // In one segment with the FIN.
    SockRef::from(&client).send_with_flags(b"QUIT\r\n", libc::MSG_MORE).expect("the last line");
    drop(client);
    expect_clean_end(link, datapath);
}

fn a_closed_server_that_refuses_a_request_counts_as_broken(datapath: Datapath) {
    let link = Link::new(datapath);
    let (mut client, server) = link.settled_pair();
    drop(server);
    assert_eq!(end_of(&mut client), End::Clean);
    client.write_all(b"MAIL FROM:<>\r\n").expect("a request");
    expect_error(&client);
    expect_end(&link, datapath, "backend reset");
}

fn a_half_closed_client_that_leaves_a_transfer_counts_as_broken(datapath: Datapath) {
    if datapath == Datapath::Splice {
        return note("all bytes sent are acknowledged, so a FIN looks like a clean end");
    }
    let link = Link::new(datapath);
    let (client, mut server) = link.settled_pair();
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(end_of(&mut server), End::Clean);
    fill(&mut server);
    drop(client);
    expect_end(&link, datapath, "client reset");
}

on_all_datapaths!(
    the_client_sees_a_reset_without_reading,
    the_server_sees_a_reset_without_reading,
    a_half_closed_client_still_gets_a_big_answer,
    a_half_closed_server_still_gets_a_big_answer,
    both_sides_may_close_at_once_without_loss,
    the_server_sees_the_clients_reset,
    the_client_sees_the_servers_reset,
    the_server_sees_a_reset_in_the_middle_of_a_transfer,
    the_client_sees_a_reset_in_the_middle_of_a_transfer,
    a_reset_passes_through_after_a_half_close,
    a_server_that_writes_to_a_closed_client_gets_an_error,
    the_last_line_before_a_reset_arrives,
    an_answer_before_a_reset_arrives_while_its_receiver_sends,
    bytes_buffered_before_a_reset_arrive,
    a_closed_client_may_reset_the_last_line,
    a_client_may_close_with_the_last_line_unread,
    a_closed_server_may_get_a_last_line,
    a_closed_server_that_refuses_a_request_counts_as_broken,
    a_line_before_an_immediate_reset_arrives,
    a_line_before_an_immediate_reset_arrives_over_ipv6,
    a_half_closed_client_that_leaves_a_transfer_counts_as_broken,
);

#[test]
fn a_client_that_sends_first_gets_the_line_before_a_reset() {
    rejected(Datapath::Relay, Ipv4Addr::LOCALHOST.into(), b"EHLO client.example\r\n");
}

/// Each client sends `saying` to a server that sends a line and resets at once. Each client must
/// get the line and then the reset, and the server must not count as unreachable.
fn rejected(datapath: Datapath, ip: IpAddr, saying: &[u8]) {
    const LINE: &[u8] = b"421 too many connections\r\n";
    const CLIENTS: u64 = 100;
    let Ok(socket) = Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None) else {
        return tests::skip("no IPv6 here");
    };
    if socket.bind(&SocketAddr::new(ip, 0).into()).is_err() {
        return tests::skip("no such loopback address here");
    }
    let server = Backend::start((ip, 0).into(), |mut stream| {
        stream.write_all(LINE).expect("a line");
        reset(stream);
    });
    let dir = RunDir::new();
    let builder = dir.use_in(Builder::new(datapath)).option(&["-a"]).channel(server.address());
    let balance = builder.start();
    for _ in 0..CLIENTS {
        let mut client = connect_without_wait(balance.address());
        // The write may fail with the reset; then the read has not seen it.
        let written = client.write_all(saying);
        let mut received = Vec::new();
        let end = client.read_to_end(&mut received);
        assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(LINE), "{end:?}");
        let broken = written.and(end.map(drop)).expect_err("a reset").kind();
        assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&broken), "{broken}");
    }
    let row = &dir.show_at_rest(balance.address())[0];
    let line = LINE.len() as u64;
    assert_eq!((row.enabled, row.total, row.rcvd), (true, CLIENTS, CLIENTS * line), "{row:?}");
    let stopped = balance.stop();
    assert_eq!((stopped.unserved, stopped.broken), (0, CLIENTS));
}

/// Connects without waiting for the connection: such a wait could return the reset, and no bytes
/// that came before it.
fn connect_without_wait(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    let _ = socket.connect(&address.into());
    socket.set_nonblocking(false).expect("O_NONBLOCK");
    socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    socket.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
    socket.into()
}

/// Fills the whole path, resets, and asserts that a receiver that has read nothing gets the reset.
fn reset_after_filling(mut from: TcpStream, to: &TcpStream) {
    fill(&mut from);
    reset(from);
    eventually(TIMEOUT, "the receiver gets the reset", || {
        match to.take_error().expect("SO_ERROR") {
            Some(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Fills all buffers on the path to the other end.
fn fill(from: &mut TcpStream) {
    from.set_nonblocking(true).expect("O_NONBLOCK");
    let mut last = Instant::now();
    while last.elapsed() < FULL_AFTER {
        match from.write(&[7; 16 << 10]) {
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("filling a connection: {error}"),
        }
    }
}

/// Reads until a reset; fails on any other end.
fn until_reset(mut from: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let error = from.read_to_end(&mut got).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    got
}

/// Waits until the socket has an error.
fn expect_error(stream: &TcpStream) {
    eventually(TIMEOUT, "an error", || match stream.take_error().expect("SO_ERROR") {
        Some(_) => Ok(()),
        None => Err("none".to_owned()),
    });
}

/// Number of sent bytes that the peer has not acknowledged.
fn unacknowledged(stream: &TcpStream) -> libc::c_int {
    let mut len = 0;
    // SAFETY: the kernel writes an int to `len` (tcp(7), SIOCOUTQ).
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut len) };
    assert_eq!(result, 0, "SIOCOUTQ");
    len
}

/// Asserts that the program counts its only connection as one that ended cleanly.
fn expect_clean_end(link: Link, datapath: Datapath) {
    let sessions = link.balance.sessions(1);
    assert!(sessions[0].end.starts_with("clean"), "{sessions:?}");
    assert!(datapath.may_end_on(&sessions[0].datapath), "{sessions:?}");
    assert_eq!(link.balance.stop().broken, 0);
}

/// A path that accepts nothing for this long is full.
const FULL_AFTER: Duration = Duration::from_millis(300);

/// Sends `len` bytes and ends that direction.
fn send_all_and_close(stream: &TcpStream, len: u64) -> tests::Digest {
    let digest = send(stream, Pattern::new(len, len), WHOLE_CHUNKS, |_| {}).expect("sending");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    digest
}

/// One side sends all and closes; the other reads to the end and only then answers.
fn one_after_the_other((first, request): (&TcpStream, u64), (second, answer): (&TcpStream, u64)) {
    for (from, to, len) in [(first, second, request), (second, first, answer)] {
        thread::scope(|scope| {
            let sent = scope.spawn(|| send_all_and_close(from, len));
            let got = receive_all(to).expect("receiving");
            assert_eq!(got, sent.join().expect("sending"));
        });
    }
}

/// `from` sends until `to` has read a part, and then resets; `to` must see the reset after the data
/// before it.
fn reset_in_the_middle(mut from: TcpStream, mut to: TcpStream) {
    let (got_some, has_got_some) = mpsc::channel();
    let receiving = thread::spawn(move || {
        receive_exactly(&to, 3 << 20).expect("the first part");
        got_some.send(()).expect("the sender waits");
        end_of(&mut to)
    });
    while has_got_some.try_recv().is_err() {
        from.write_all(&[7; 64 << 10]).expect("sending");
    }
    reset(from);
    assert_eq!(receiving.join().expect("the receiver"), End::Reset);
}

/// Asserts how the program's only connection ended, as the log shows it.
fn expect_end(link: &Link, datapath: Datapath, end: &str) {
    let sessions = link.balance.sessions(1);
    assert_eq!(sessions[0].end, end, "{sessions:?}");
    assert!(datapath.may_end_on(&sessions[0].datapath), "{sessions:?}");
}
