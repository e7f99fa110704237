//! Clients and servers that act before the connection through the program is complete: their bytes
//! are not lost, and their resets harm no other connection.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream},
    thread,
};

use tests::{
    Backend, Blackhole, Builder, Datapath, Digest, End, Link, Pattern, WHOLE_CHUNKS, both_ways,
    connect, end_of, on_all_datapaths, receive_all, receive_exactly, reset, send,
};

fn data_sent_before_the_backend_is_connected_arrives(datapath: Datapath) {
    const SIZE: u64 = (1 << 20) + 7;
    let (link, _blackhole) = slow_link(datapath);
    let client = link.connect();
    thread::scope(|scope| {
        let sent = scope.spawn(|| send_pattern(&client, SIZE));
        let server = link.accept();
        let got = receive_exactly(&server, SIZE).expect("the request");
        assert_eq!(got, sent.join().expect("the client"));
        both_ways(&client, &server, (SIZE, SIZE), WHOLE_CHUNKS);
    });
    drop(client);
    link.balance.assert_all_on_its_datapath(1);
}

fn a_client_that_closes_before_the_backend_is_connected_loses_no_byte(datapath: Datapath) {
    let (link, _blackhole) = slow_link(datapath);
    for size in [1, (1 << 20) + 7] {
        let sent = send_pattern(&link.connect(), size);
        let server = link.accept();
        assert_eq!(receive_all(&server).expect("the bytes of the client"), sent);
    }
}

fn clients_that_send_and_close_at_once_lose_no_byte(datapath: Datapath) {
    let link = Link::new(datapath);
    let mut sizes = fastrand::Rng::with_seed(3);
    for _ in 0..ROUNDS {
        let sent = send_pattern(&link.connect(), sizes.u64(0..200_000));
        let mut server = link.accept();
        assert_eq!(receive_all(&server).expect("the bytes of the client"), sent);
        assert_eq!(end_of(&mut server), End::Clean);
    }
}

fn servers_that_send_and_close_at_once_lose_no_byte(datapath: Datapath) {
    let link = Link::new(datapath);
    let mut sizes = fastrand::Rng::with_seed(5);
    for _ in 0..ROUNDS {
        let mut client = link.connect();
        let sent = send_pattern(&link.accept(), sizes.u64(0..200_000));
        assert_eq!(receive_all(&client).expect("the bytes of the server"), sent);
        assert_eq!(end_of(&mut client), End::Clean);
    }
}

fn clients_that_end_their_direction_at_once_get_their_answer(datapath: Datapath) {
    let link = Link::new(datapath);
    let mut sizes = fastrand::Rng::with_seed(7);
    for _ in 0..ROUNDS {
        let client = link.connect();
        let request = send_pattern(&client, sizes.u64(0..2000));
        client.shutdown(Shutdown::Write).expect("shutdown");
        let server = link.accept();
        assert_eq!(receive_all(&server).expect("the request"), request);
        let answer = send_pattern(&server, sizes.u64(0..200_000));
        drop(server);
        assert_eq!(receive_all(&client).expect("the answer"), answer);
    }
}

fn clients_that_leave_before_the_backend_is_connected_do_no_harm(datapath: Datapath) {
    let blackhole = Blackhole::open();
    let server = Backend::echo("A");
    let balance = Builder::new(datapath)
        .option(&["-t", "1"])
        .channel(blackhole.address())
        .channel(server.address())
        .start();
    for leave in [drop::<TcpStream>, reset] {
        leave(connect(balance.address()));
        let mut client = connect(balance.address());
        client.write_all(b"BC").expect("writing");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).expect("the answer");
        assert_eq!(&answer, b"ABC");
    }
    let stopped = balance.stop();
    // A client that resets before the accept may not count.
    assert!((3..=4).contains(&stopped.connections), "{stopped:?}");
}

on_all_datapaths!(
    data_sent_before_the_backend_is_connected_arrives,
    a_client_that_closes_before_the_backend_is_connected_loses_no_byte,
    clients_that_send_and_close_at_once_lose_no_byte,
    servers_that_send_and_close_at_once_lose_no_byte,
    clients_that_end_their_direction_at_once_get_their_answer,
    clients_that_leave_before_the_backend_is_connected_do_no_harm,
);

/// Enough to meet the hand-over of a connection at every moment.
const ROUNDS: usize = 200;

/// A program whose first server does not answer, so that it connects to the test's server after a
/// second.
fn slow_link(datapath: Datapath) -> (Link, Blackhole) {
    let blackhole = Blackhole::open();
    let builder = Builder::new(datapath).option(&["-t", "1"]).channel(blackhole.address());
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    (link, blackhole)
}

fn send_pattern(stream: &TcpStream, len: u64) -> Digest {
    send(stream, Pattern::new(len, len), WHOLE_CHUNKS, |_| {}).expect("sending")
}
