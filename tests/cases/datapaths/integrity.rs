//! Every byte arrives unchanged and in order, for every size and direction.

use std::{io::Read as _, net::TcpStream, thread};

use socket2::SockRef;
use tests::{
    Datapath, End, Link, Pattern, WHOLE_CHUNKS, both_ways, end_of, on_all_datapaths,
    receive_exactly, send,
};

/// From less than a segment to more than any buffer on the path.
const SIZES: [u64; 6] = [1, 2, 1447, 64 << 10, (1 << 20) + 7, 20 << 20];

fn a_client_that_sends_first_gets_its_answer(datapath: Datapath) {
    let link = Link::new(datapath);
    for size in SIZES {
        let client = link.connect();
        let sending = in_background(&client, move |client| {
            send(client, Pattern::new(size, size), WHOLE_CHUNKS, |_| {})
                .expect("the client's request")
        });
        let server = link.accept();
        let request = receive_exactly(&server, size).expect("the request");
        assert_eq!(request, sending.join().expect("the client"));
        answer(&server, client, size);
    }
    finish(link);
}

fn a_server_that_sends_first_gets_its_answer(datapath: Datapath) {
    let link = Link::new(datapath);
    for size in SIZES {
        let client = link.connect();
        let server = link.accept();
        let sending = in_background(&server, move |server| {
            send(server, Pattern::new(size, size), WHOLE_CHUNKS, |_| {})
                .expect("the server's greeting")
        });
        let greeting = receive_exactly(&client, size).expect("the greeting");
        assert_eq!(greeting, sending.join().expect("the server"));
        answer(&client, server, size);
    }
    finish(link);
}

fn both_sides_may_send_at_once(datapath: Datapath) {
    let link = Link::new(datapath);
    for size in SIZES {
        let client = link.connect();
        let server = link.accept();
        both_ways(&client, &server, (size, size), WHOLE_CHUNKS);
    }
    finish(link);
}

fn two_hundred_megabytes_each_way_at_once_arrive(datapath: Datapath) {
    const SIZE: u64 = 200_000_000;
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    both_ways(&client, &server, (SIZE, SIZE), WHOLE_CHUNKS);
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
    let stopped = link.balance.stop();
    // One more byte each way established the pair.
    assert_eq!((stopped.sent, stopped.rcvd), (SIZE + 1, SIZE + 1));
}

fn twenty_thousand_writes_of_one_byte_arrive(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    both_ways(&client, &server, (20_000, 20_000), 1..2);
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
}

fn writes_of_any_length_arrive(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, server) = link.pair();
    both_ways(&client, &server, (16 << 20, 9 << 20), 1..20_000);
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
}

fn connections_side_by_side_do_not_mix(datapath: Datapath) {
    let link = Link::new(datapath);
    let pairs: Vec<_> = (0..32).map(|_| link.pair()).collect();
    thread::scope(|scope| {
        for (size, (client, server)) in (1 << 20..).zip(&pairs) {
            scope.spawn(move || both_ways(client, server, (size, size + 1000), 1..100_000));
        }
    });
    drop(pairs);
    link.balance.assert_all_on_its_datapath(32);
}

/// A read stops before an urgent byte, so a relay can miss the bytes after it.
fn urgent_bytes_keep_their_place(datapath: Datapath) {
    let link = Link::new(datapath);
    let (client, mut server) = link.pair();
    let sender = SockRef::from(&client);
    for _ in 0..100 {
        sender.send(b"12").expect("plain bytes");
        sender.send_out_of_band(b"345").expect("plain bytes and an urgent one");
        let mut got = [0; 5];
        server.read_exact(&mut got).expect("all bytes");
        assert_eq!(&got, b"12345");
    }
    drop((client, server));
    link.balance.assert_all_on_its_datapath(1);
}

/// The kernel abandons a read that starts at an urgent byte when the process has other work, such
/// as events on other connections, and reports that there is no data. Without further data the
/// relay would never read again.
fn a_lone_urgent_byte_arrives_while_others_come_and_go(datapath: Datapath) {
    const LANES: usize = 4;
    let link = Link::new(datapath);
    let lanes: Vec<_> = (0..LANES).map(|_| link.pair()).collect();
    thread::scope(|scope| {
        let busy = lanes.iter().map(|(client, server)| {
            scope.spawn(move || {
                for _ in 0..5_000 {
                    for (from, mut to) in [(client, server), (server, client)] {
                        SockRef::from(from).send_out_of_band(b"!").expect("an urgent byte");
                        to.read_exact(&mut [0]).expect("the urgent byte");
                    }
                }
            })
        });
        let busy: Vec<_> = busy.collect();
        while !busy.iter().all(|lane| lane.is_finished()) {
            drop(link.pair());
        }
    });
}

on_all_datapaths!(
    a_client_that_sends_first_gets_its_answer,
    a_server_that_sends_first_gets_its_answer,
    both_sides_may_send_at_once,
    two_hundred_megabytes_each_way_at_once_arrive,
    twenty_thousand_writes_of_one_byte_arrive,
    writes_of_any_length_arrive,
    connections_side_by_side_do_not_mix,
    urgent_bytes_keep_their_place,
    a_lone_urgent_byte_arrives_while_others_come_and_go,
);

/// Runs `act` on another handle of the same stream.
fn in_background<T: Send + 'static>(
    stream: &TcpStream,
    act: impl FnOnce(&TcpStream) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let stream = stream.try_clone().expect("dup");
    thread::spawn(move || act(&stream))
}

/// Sends `size` bytes back. Then the receiver ends its direction, and both ends must be clean.
fn answer(from: &TcpStream, mut to: TcpStream, size: u64) {
    let sending = in_background(from, move |from| {
        send(from, Pattern::new(!size, size), WHOLE_CHUNKS, |_| {}).expect("the answer")
    });
    let received = receive_exactly(&to, size).expect("the answer");
    assert_eq!(received, sending.join().expect("the answer"));
    to.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut from = from.try_clone().expect("dup");
    assert_eq!(end_of(&mut from), End::Clean);
    from.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(end_of(&mut to), End::Clean);
}

/// Asserts that the program has counted each size once in each direction.
fn finish(link: Link) {
    link.balance.assert_all_on_its_datapath(SIZES.len());
    let stopped = link.balance.stop();
    let total: u64 = SIZES.iter().sum();
    assert_eq!((stopped.sent, stopped.rcvd), (total, total));
    assert_eq!(stopped.connections, SIZES.len() as u64);
}
