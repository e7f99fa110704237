//! Peers on other hosts than the program's, or one of them on its own: what they say arrives, and
//! each end by itself.

use std::{
    net::{Shutdown, TcpStream},
    thread,
};

use tests::{
    Builder, Datapath, End, Family, Link, Network, Pattern, Sending, Topology, WHOLE, both_ways,
    end_of, exchange, note, on_all_datapaths, receive_all, send,
};

fn hosts_apart_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::Apart, Family::V4);
}

fn hosts_apart_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::Apart, Family::V6);
}

fn hosts_behind_one_interface_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::OneInterface, Family::V4);
}

fn hosts_behind_one_interface_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::OneInterface, Family::V6);
}

fn peers_on_one_host_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::Together, Family::V4);
}

fn peers_on_one_host_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::Together, Family::V6);
}

fn a_server_beside_the_program_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ServerHere, Family::V4);
}

fn a_server_beside_the_program_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ServerHere, Family::V6);
}

fn a_server_on_the_programs_loopback_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ServerOnLoopback, Family::V4);
}

fn a_server_on_the_programs_loopback_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ServerOnLoopback, Family::V6);
}

fn a_client_beside_the_program_over_ipv4(datapath: Datapath) {
    converse(datapath, Topology::ClientHere, Family::V4);
}

fn a_client_beside_the_program_over_ipv6(datapath: Datapath) {
    converse(datapath, Topology::ClientHere, Family::V6);
}

fn a_window_that_was_full_opens_again(datapath: Datapath) {
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let link = Link::small_across(network, Builder::new(datapath));
    let mut one_by_one = link.small_pair();
    let mut at_once = link.small_pair();
    for (client, server) in [&mut one_by_one, &mut at_once] {
        (0..30).for_each(|_| exchange(client, server));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let (client, server) = &one_by_one;
            fill_and_empty(client, server);
            fill_and_empty(server, client);
        });
        let (client, server) = &at_once;
        scope.spawn(|| fill_and_empty(client, server));
        scope.spawn(|| fill_and_empty(server, client));
    });
    drop((one_by_one, at_once));
    link.balance.assert_all_handed_over(2);
}

on_all_datapaths!(
    hosts_apart_over_ipv4,
    hosts_apart_over_ipv6,
    hosts_behind_one_interface_over_ipv4,
    hosts_behind_one_interface_over_ipv6,
    peers_on_one_host_over_ipv4,
    peers_on_one_host_over_ipv6,
    a_server_beside_the_program_over_ipv4,
    a_server_beside_the_program_over_ipv6,
    a_server_on_the_programs_loopback_over_ipv4,
    a_server_on_the_programs_loopback_over_ipv6,
    a_client_beside_the_program_over_ipv4,
    a_client_beside_the_program_over_ipv6,
    a_window_that_was_full_opens_again,
);

/// Moves data both ways at once, and then ends one direction while the other goes on.
fn converse(datapath: Datapath, topology: Topology, family: Family) {
    const SIZE: u64 = 8 << 20;
    // So many exchanges that splicing has begun.
    const GREETING: u64 = 30;

    let Some(network) = Network::new(topology, family) else { return };
    let link = Link::across(network, Builder::new(datapath));
    for client_ends_first in [true, false] {
        let (client, server) = link.pair_after(GREETING);
        both_ways(&client, &server, (SIZE, SIZE + 1), WHOLE);
        let (first, second) = match client_ends_first {
            true => (&client, &server),
            false => (&server, &client),
        };
        first.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut second.try_clone().expect("dup")), End::Clean);
        say_all(second, first, SIZE / 4);
    }
    link.balance.assert_all_handed_over(2);
    let stopped = link.balance.stop();
    assert_eq!((stopped.sent + stopped.rcvd), 2 * (2 * SIZE + 1 + SIZE / 4 + 2 * GREETING));
}

/// Sends `len` bytes and ends that direction; all of it arrives.
fn say_all(from: &TcpStream, to: &TcpStream, len: u64) {
    thread::scope(|scope| {
        let got = scope.spawn(|| receive_all(to).expect("the last part"));
        let sent = send(from, Pattern::new(len, len), WHOLE, |_| {}).expect("sending");
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(got.join().expect("the receiver"), sent);
    });
}

/// Lets the sender get stuck before anything is read.
fn fill_and_empty(from: &TcpStream, to: &TcpStream) {
    /// More than all that is on the way holds.
    const MUCH: u64 = 48 << 20;

    let sending = Sending::start(from, MUCH);
    let stopped = sending.wait_until_still();
    note(&format!("stopped after {stopped} of {MUCH} bytes"));
    assert!(stopped < MUCH, "it was never stuck");
    assert_eq!(receive_all(to).expect("all of it"), sending.finish());
}
