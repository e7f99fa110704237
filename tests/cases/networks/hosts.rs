//! A client, the program and two servers on four hosts: a server becomes unreachable, a link goes
//! down and up, and the program uses a configured source address.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
};

use tests::{
    Backend, Balance, Builder, Datapath, End, Family, Link, Network, Peer, ReservedPort, Sending,
    Switch, TIMEOUT, Topology, WHOLE_CHUNKS, both_ways, connect, end_of, eventually,
    on_all_datapaths, receive_all,
};

fn an_unreachable_server_is_skipped_over_ipv4(datapath: Datapath) {
    cut_off(datapath, Family::V4);
}

fn an_unreachable_server_is_skipped_over_ipv6(datapath: Datapath) {
    cut_off(datapath, Family::V6);
}

fn a_link_that_recovers_has_lost_nothing_over_ipv4(datapath: Datapath) {
    flap(datapath, Family::V4);
}

fn a_link_that_recovers_has_lost_nothing_over_ipv6(datapath: Datapath) {
    flap(datapath, Family::V6);
}

fn the_server_sees_the_configured_source_over_ipv4(datapath: Datapath) {
    other_address(datapath, Family::V4);
}

fn the_server_sees_the_configured_source_over_ipv6(datapath: Datapath) {
    other_address(datapath, Family::V6);
}

on_all_datapaths!(
    an_unreachable_server_is_skipped_over_ipv4,
    an_unreachable_server_is_skipped_over_ipv6,
    a_link_that_recovers_has_lost_nothing_over_ipv4,
    a_link_that_recovers_has_lost_nothing_over_ipv6,
    the_server_sees_the_configured_source_over_ipv4,
    the_server_sees_the_configured_source_over_ipv6,
);

/// Open connections survive, both to the unreachable server and to the other one.
fn cut_off(datapath: Datapath, family: Family) {
    let Some(site) = Site::new(datapath, family) else { return };
    let (mut across, mut beside) = (site.client("A"), site.client("B"));
    site.network.set_server_cut_off(true);
    across.write_all(b"are you there?").expect("to the unreachable server");
    for _ in 0..2 {
        // Round robin also selects the unreachable server.
        drop(site.client("B"));
    }
    exchange(&mut beside, b"still here");
    site.network.set_server_cut_off(false);
    let mut answer = [0; 14];
    across.read_exact(&mut answer).expect("from the reachable server");
    assert_eq!(&answer, b"are you there?");
    eventually(TIMEOUT, "the reachable server gets new clients", || match site.next_client() {
        (_, 'A') => Ok(()),
        (_, other) => Err(format!("{other} was next")),
    });
    for mut client in [across, beside] {
        exchange(&mut client, b"and still");
        client.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut client), End::Clean);
    }
    site.balance.assert_all_on_its_datapath(5);
    let broken = site.balance.stop().broken;
    assert_eq!(broken, 0);
}

/// Bytes in flight when a link goes down arrive when it is up again.
fn flap(datapath: Datapath, family: Family) {
    const SIZE: u64 = 128 << 20;
    let Some(network) = Network::new(Topology::Apart, family) else { return };
    let link = Link::across(network, Builder::new(datapath));
    for peer in [Peer::Client, Peer::Server] {
        let (client, server) = link.settled_pair();
        thread::scope(|scope| {
            let receiver = server.try_clone().expect("dup");
            let got = scope.spawn(move || receive_all(&receiver).expect("all bytes"));
            let sending = Sending::start(&client, SIZE);
            eventually(TIMEOUT, "a part has been sent", || match sending.so_far() {
                bytes if bytes >= SIZE / 4 => Ok(()),
                bytes => Err(format!("{bytes} bytes are")),
            });
            link.network().switch(peer, Switch::Off);
            let stopped = sending.wait_until_still();
            assert!(stopped < SIZE, "all was sent before the link went down");
            link.network().switch(peer, Switch::On);
            assert_eq!(got.join().expect("the receiver"), sending.finish());
        });
        drop(server);
        assert_eq!(end_of(&mut client.try_clone().expect("dup")), End::Clean);
    }
    link.balance.assert_all_handed_over(2);
    let broken = link.balance.stop().broken;
    assert_eq!(broken, 0);
}

fn other_address(datapath: Datapath, family: Family) {
    let Some(network) = Network::new(Topology::Apart, family) else { return };
    let address = network.add_balancer_address();
    let builder = Builder::new(datapath).option(&["-B", &address.to_string()]);
    let link = Link::across(network, builder);
    let (client, server) = link.settled_pair();
    assert_eq!(server.peer_addr().expect("getpeername").ip(), address);
    both_ways(&client, &server, (1 << 20, 1 << 20), WHOLE_CHUNKS);
    drop((client, server));
    link.balance.assert_all_handed_over(1);
}

/// The four hosts, with the program on one and the servers A and B.
struct Site {
    balance: Balance,
    _servers: [Backend; 2],
    _port: ReservedPort,
    network: Network,
}

impl Site {
    fn new(datapath: Datapath, family: Family) -> Option<Self> {
        let mut network = Network::new(Topology::Apart, family)?;
        let other = network.add_server().expect("one more host");
        let at = network.backend();
        let a = network.peer(Peer::Server).enter(|| Backend::echo_at(at, "A"));
        let (host, at) = network.extra_server(other);
        let b = host.enter(|| Backend::echo_at(at, "B"));
        let builder = Builder::new(datapath).option(&["-t", "1"]);
        let builder = builder.channel(a.address()).channel(b.address());
        let (balance, port) = builder.start_within(&network);
        Some(Self { balance, _servers: [a, b], _port: port, network })
    }

    /// Connects a client; returns the name of its server as well.
    fn next_client(&self) -> (TcpStream, char) {
        let address = self.balance.address();
        let mut client = self.network.peer(Peer::Client).enter(|| connect(address));
        let mut name = [0];
        client.read_exact(&mut name).expect("the server's name");
        (client, name[0].into())
    }

    /// Connects a client, which this server must serve, and uses the connection until its datapath
    /// has taken over.
    fn client(&self, server: &str) -> TcpStream {
        let (mut client, name) = self.next_client();
        assert_eq!(name.to_string(), server);
        (0..100).for_each(|_| exchange(&mut client, b"hello"));
        client
    }
}

/// Sends bytes and reads their echo.
fn exchange(client: &mut TcpStream, sent: &[u8]) {
    let mut received = vec![0; sent.len()];
    client.write_all(sent).expect("to the server");
    client.read_exact(&mut received).expect("from the server");
    assert_eq!(received, sent);
}
