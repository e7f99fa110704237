//! IPv6 and IPv4, on either side.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tests::{
    Builder, Datapath, Link, Namespace, ReservedPort, WHOLE_CHUNKS, both_ways, connect, end_of,
    on_each_datapath, skip,
};

fn an_ipv6_client_reaches_an_ipv4_server(datapath: Datapath) {
    crossing(datapath, Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
}

fn an_ipv4_client_reaches_an_ipv6_server(datapath: Datapath) {
    crossing(datapath, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
}

fn an_ipv6_client_reaches_an_ipv6_server(datapath: Datapath) {
    crossing(datapath, Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
}

fn without_a_listen_address_both_families_are_served(datapath: Datapath) {
    if !ipv6_works() {
        return;
    }
    let port = ReservedPort::at(Ipv6Addr::UNSPECIFIED.into());
    let builder = Builder::new(datapath).listen(port.address());
    let link = Link::with(builder, (Ipv6Addr::LOCALHOST, 0).into());
    let clients: [SocketAddr; 2] =
        [(Ipv4Addr::LOCALHOST, port.port()).into(), (Ipv6Addr::LOCALHOST, port.port()).into()];
    for address in clients {
        let client = connect(address);
        let server = link.accept();
        both_ways(&client, &server, (1 << 20, 1 << 20), WHOLE_CHUNKS);
    }
    link.balance.assert_all_on_its_datapath(2);
}

fn a_host_without_the_loopback_of_ipv4_is_served(datapath: Datapath) {
    if !ipv6_works() {
        return;
    }
    let host = match Namespace::new() {
        Ok(host) => host,
        Err(error) => return skip(&format!("no network of its own: {error}")),
    };
    host.ip("address del dev lo 127.0.0.1/8");
    host.enter(|| crossing(datapath, Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()));
}

on_each_datapath!(
    a_host_without_the_loopback_of_ipv4_is_served,
    an_ipv6_client_reaches_an_ipv4_server,
    an_ipv4_client_reaches_an_ipv6_server,
    an_ipv6_client_reaches_an_ipv6_server,
    without_a_listen_address_both_families_are_served,
);

fn crossing(datapath: Datapath, listen: std::net::IpAddr, backend: std::net::IpAddr) {
    if !ipv6_works() {
        return;
    }
    let port = ReservedPort::at(listen);
    let builder = Builder::new(datapath).listen(port.address());
    let link = Link::with(builder, (backend, 0).into());
    let (client, mut server) = link.pair();
    both_ways(&client, &server, (5 << 20, 5 << 20), WHOLE_CHUNKS);
    drop(client);
    end_of(&mut server);
    drop(server);
    link.balance.assert_all_on_its_datapath(1);
}

/// True if this machine has an IPv6 loopback; otherwise the reason to skip has been printed.
fn ipv6_works() -> bool {
    match ReservedPort::bind((Ipv6Addr::LOCALHOST, 0).into()) {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("no IPv6 here: binding ::1: {error}"));
            false
        }
    }
}
