//! A network of hosts (network namespaces), for tests in which client, program and server are not
//! on one host.
//!
//! Invariants: no host forwards packets, so a packet between client and server must pass through
//! the program. Dropping a [`Network`] removes it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Add as _, Range},
    path::Path,
};

use crate::skip;

mod packet;
mod router;
mod tap;
mod wire;

pub use netns::Namespace;
pub use packet::Packet;
pub use wire::{LinkConditions, LinkFaults};

use tap::Tap;
use wire::Wire;

/// Placement of client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Client and server on their own hosts, behind different interfaces of the balancer's host.
    Apart,
    /// Client and server on their own hosts, behind one interface of the balancer's host.
    OneInterface,
    /// Client and server on one host and address.
    SharedPeerHost,
    /// The server on the balancer's host, at the address that clients connect to.
    ServerOnBalancer,
    /// The server on the loopback of the balancer's host.
    ServerOnLoopback,
    /// The client on the balancer's host.
    ClientOnBalancer,
    /// Client and server on the loopback of the balancer's host.
    SingleHost,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The cable between a peer's host and the balancer's host.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// MTU in bytes.
    pub mtu: usize,
    /// What happens to frames on the cable. `None` is a veth pair with all offloads, on which
    /// nothing happens.
    pub conditions: Option<LinkConditions>,
}

impl Cable {
    /// A veth pair.
    pub const PLAIN: Self = Self { mtu: 1500, conditions: None };

    /// A cable whose packets can be observed, and on which nothing else happens.
    pub fn observed() -> Self {
        Self::with(LinkConditions::default())
    }

    /// A cable with these conditions.
    pub fn with(conditions: LinkConditions) -> Self {
        Self { conditions: Some(conditions), ..Self::PLAIN }
    }

    /// The same cable with another MTU.
    pub fn mtu(self, mtu: usize) -> Self {
        Self { mtu, ..self }
    }
}

/// A peer of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// An ifindex that the other end of the pair does not have. Only then does the kernel report the
/// carrier of a veth device at once, and not a second later.
const PEER_INDEX: &str = "index 100";

/// The hosts and the cables between them.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    family: Family,
    balancer: Namespace,
    /// Hosts of client and server; `None` for a peer on the balancer's host.
    peers: [Option<Namespace>; 2],
    /// Hosts of additional servers.
    extra_servers: Vec<Namespace>,
    /// A host on no path between client, balancer and servers.
    off_path_host: Option<Namespace>,
    /// The bridge that joins the hosts of [`Topology::OneInterface`].
    switch: Option<Namespace>,
    wires: [Option<Wire>; 2],
}

/// Subnet of the first additional server.
const EXTRA_SUBNET: u8 = 3;

/// Subnet of the off-path host.
const OFF_PATH_SUBNET: u8 = 99;

/// State of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// No frames pass.
    Off,
    /// Frames pass.
    On,
}

/// The subnet of a host's address, and its number in the subnet.
struct HostAddress(u8, u8);

impl HostAddress {
    fn of(&self, family: Family) -> IpAddr {
        let &Self(subnet, host) = self;
        match family {
            Family::V4 => Ipv4Addr::new(10, 11, subnet, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd11, subnet.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Commands of ip(8) that give the address to a device and set the device up.
    fn up(&self, device: &str, family: Family) -> String {
        let address = self.of(family);
        let rest = match family {
            Family::V4 => "/24",
            // Without duplicate address detection the address is usable at once.
            Family::V6 => "/64 nodad",
        };
        format!("address add dev {device} {address}{rest}\nlink set {device} up")
    }
}

impl Peer {
    fn address(self, topology: Topology) -> HostAddress {
        match (self, topology) {
            (Peer::Client, _) => HostAddress(1, 2),
            (Peer::Server, Topology::OneInterface) => HostAddress(1, 3),
            (Peer::Server, Topology::SharedPeerHost) => HostAddress(1, 2),
            (Peer::Server, _) => HostAddress(2, 2),
        }
    }

    /// The balancer's address towards the peer, if the peer has its own host.
    fn gateway(self, topology: Topology) -> HostAddress {
        match (self, topology) {
            (Peer::Server, Topology::Apart | Topology::ClientOnBalancer) => HostAddress(2, 1),
            _ => HostAddress(1, 1),
        }
    }

    /// The balancer's device towards the peer.
    fn device(self) -> &'static str {
        match self {
            Peer::Client => "to-client",
            Peer::Server => "to-server",
        }
    }
}

impl Network {
    /// Creates hosts joined by veth pairs. Prints the reason and returns `None` where that is
    /// impossible.
    pub fn new(topology: Topology, family: Family) -> Option<Self> {
        Self::with(topology, family, [Cable::PLAIN; 2])
    }

    /// Like [`Network::new`], with these cables to the client and to the server. A cable that the
    /// topology lacks is ignored; behind one interface there are only plain cables.
    pub fn with(topology: Topology, family: Family, cables: [Cable; 2]) -> Option<Self> {
        let built = match unavailable(family, cables) {
            None => {
                Self::build(topology, family, cables).map_err(|e| format!("no namespaces: {e}"))
            }
            Some(reason) => Err(reason),
        };
        built.inspect_err(|reason| skip(reason)).ok()
    }

    fn build(topology: Topology, family: Family, cables: [Cable; 2]) -> io::Result<Self> {
        let mut network = Self {
            topology,
            family,
            balancer: host()?,
            peers: [None, None],
            extra_servers: Vec::new(),
            off_path_host: None,
            switch: None,
            wires: [None, None],
        };
        match topology {
            Topology::Apart => {
                network.join(Peer::Client, cables[0])?;
                network.join(Peer::Server, cables[1])?;
            }
            Topology::SharedPeerHost | Topology::ServerOnBalancer | Topology::ServerOnLoopback => {
                network.join(Peer::Client, cables[0])?;
            }
            Topology::ClientOnBalancer => network.join(Peer::Server, cables[1])?,
            Topology::OneInterface => network.join_by_switch()?,
            Topology::SingleHost => {}
        }
        Ok(network)
    }

    /// Creates a peer's host and joins it to the balancer's host.
    fn join(&mut self, peer: Peer, Cable { mtu, conditions }: Cable) -> io::Result<()> {
        let host = host()?;
        let device = peer.device();
        match conditions {
            None => host.ip(&format!(
                "link add eth0 {PEER_INDEX} mtu {mtu} type veth peer name {device} mtu {mtu} netns {}",
                self.balancer.path()
            )),
            Some(conditions) => {
                let ends = [Tap::new(&host, "eth0"), Tap::new(&self.balancer, device)];
                // The queues are long, so that only the conditions lose frames.
                host.ip(&format!("link set eth0 mtu {mtu} txqueuelen 10000"));
                self.balancer.ip(&format!("link set {device} mtu {mtu} txqueuelen 10000"));
                self.wires[peer as usize] = Some(Wire::new(ends, mtu, conditions));
            }
        }
        host.ip(&peer.address(self.topology).up("eth0", self.family));
        self.balancer.ip(&peer.gateway(self.topology).up(device, self.family));
        self.peers[peer as usize] = Some(host);
        Ok(())
    }

    /// Creates both peers' hosts and joins all three hosts by a bridge.
    fn join_by_switch(&mut self) -> io::Result<()> {
        let switch = host()?;
        switch.ip("link add bridge type bridge stp_state 0 mcast_snooping 0\nlink set bridge up");
        let plug = |host: &Namespace, port: &str, address: &HostAddress| {
            plug(&switch, host, port, address, self.family);
        };
        plug(&self.balancer, "balancer", &Peer::Client.gateway(self.topology));
        for (peer, port) in [(Peer::Client, "client"), (Peer::Server, "server")] {
            let host = host()?;
            plug(&host, port, &peer.address(self.topology));
            self.peers[peer as usize] = Some(host);
        }
        self.switch = Some(switch);
        Ok(())
    }

    /// Adds a host on no path between the others, at the bridge or on its own cable. The balancer's
    /// host accepts packets with any source address from it.
    ///
    /// # Errors
    /// When the namespace cannot be created.
    pub fn add_off_path_host(&mut self) -> io::Result<()> {
        const DEVICE: &str = "to-off-path";

        if self.topology == Topology::SingleHost {
            return Ok(());
        }
        let (host, device) = (host()?, if self.switch.is_some() { "eth0" } else { DEVICE });
        if let Some(switch) = &self.switch {
            let address = HostAddress(Peer::Client.address(self.topology).0, 9);
            plug(switch, &host, "off-path", &address, self.family);
        } else {
            host.ip(&format!(
                "link add eth0 {PEER_INDEX} type veth peer name {DEVICE} netns {}",
                self.balancer.path()
            ));
            let gateway = HostAddress(OFF_PATH_SUBNET, 1);
            host.ip(&HostAddress(OFF_PATH_SUBNET, 2).up("eth0", self.family));
            self.balancer.ip(&gateway.up(DEVICE, self.family));
            host.ip(&format!("route add default via {}", gateway.of(self.family)));
        }
        for which in ["all", device] {
            self.balancer.set(&format!("ipv4/conf/{which}/rp_filter"), "0");
        }
        self.off_path_host = Some(host);
        Ok(())
    }

    /// The off-path host, or the balancer's host if all are on one host.
    pub fn off_path_host(&self) -> &Namespace {
        self.off_path_host.as_ref().unwrap_or(&self.balancer)
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        [&self.balancer].into_iter().chain(self.peers.iter().flatten()).chain(&self.extra_servers)
    }

    /// Adds a server's host on its own cable; returns its number, from 0.
    ///
    /// # Errors
    /// When the namespace cannot be created.
    pub fn add_server(&mut self) -> io::Result<usize> {
        let number = self.extra_servers.len();
        let (host, device) = (host()?, format!("to-other-{number}"));
        host.ip(&format!(
            "link add eth0 {PEER_INDEX} type veth peer name {device} netns {}",
            self.balancer.path()
        ));
        let subnet = EXTRA_SUBNET + number as u8;
        host.ip(&HostAddress(subnet, 2).up("eth0", self.family));
        self.balancer.ip(&HostAddress(subnet, 1).up(&device, self.family));
        self.extra_servers.push(host);
        Ok(number)
    }

    /// The host of an additional server and its address, with port 0.
    pub fn extra_server(&self, number: usize) -> (&Namespace, SocketAddr) {
        let address = HostAddress(EXTRA_SUBNET + number as u8, 2).of(self.family);
        (&self.extra_servers[number], (address, 0).into())
    }

    /// With `is_cut`, silently loses every packet between the balancer's host and the server's;
    /// without, restores the path.
    pub fn set_server_cut_off(&self, is_cut: bool) {
        // The neighbour entry is a link address that no device has.
        let what = match is_cut {
            true => "replace",
            false => "delete",
        };
        let act = |host: &Namespace, device: &str, address: HostAddress| {
            let lost = "lladdr 02:00:00:00:00:99 nud permanent";
            host.ip(&format!("neigh {what} {} dev {device} {lost}", address.of(self.family)));
        };
        act(&self.balancer, Peer::Server.device(), Peer::Server.address(self.topology));
        act(self.peer(Peer::Server), "eth0", Peer::Server.gateway(self.topology));
    }

    /// Sets the device of a peer's host down or up.
    pub fn switch(&self, peer: Peer, state: Switch) {
        let state = match state {
            Switch::Off => "down",
            Switch::On => "up",
        };
        self.peer(peer).ip(&format!("link set eth0 {state}"));
    }

    /// Gives the balancer's host another address towards the server.
    pub fn add_balancer_address(&self) -> IpAddr {
        let address = HostAddress(Peer::Server.gateway(self.topology).0, 9);
        self.balancer.ip(&address.up(Peer::Server.device(), self.family));
        address.of(self.family)
    }

    /// Gives the client's host additional addresses with these numbers in its subnet.
    pub fn add_client_addresses(&self, numbers: Range<u8>) -> Vec<IpAddr> {
        let subnet = Peer::Client.address(self.topology).0;
        let places: Vec<_> = numbers.map(|number| HostAddress(subnet, number)).collect();
        let up: Vec<_> = places.iter().map(|address| address.up("eth0", self.family)).collect();
        self.peer(Peer::Client).ip(&up.join("\n"));
        places.iter().map(|address| address.of(self.family)).collect()
    }

    /// The balancer's host.
    pub fn balancer(&self) -> &Namespace {
        &self.balancer
    }

    /// The host of a peer.
    pub fn peer(&self, peer: Peer) -> &Namespace {
        let peer = match self.topology {
            Topology::SharedPeerHost => Peer::Client,
            _ => peer,
        };
        self.peers[peer as usize].as_ref().unwrap_or(&self.balancer)
    }

    /// The address for the program's listener, with port 0.
    pub fn listen_address(&self) -> SocketAddr {
        let peer = match self.topology {
            Topology::SingleHost => return (self.loopback(), 0).into(),
            Topology::ClientOnBalancer => Peer::Server,
            _ => Peer::Client,
        };
        (peer.gateway(self.topology).of(self.family), 0).into()
    }

    /// The address for the server's listener, with port 0.
    pub fn backend(&self) -> SocketAddr {
        let address = match (self.topology, self.family) {
            (Topology::ServerOnBalancer, _) => Peer::Client.gateway(self.topology).of(self.family),
            (Topology::ServerOnLoopback | Topology::SingleHost, _) => self.loopback(),
            _ => Peer::Server.address(self.topology).of(self.family),
        };
        (address, 0).into()
    }

    /// The client's address.
    pub fn client_ip(&self) -> IpAddr {
        match self.topology {
            Topology::SingleHost => self.loopback(),
            Topology::ClientOnBalancer => self.listen_address().ip(),
            _ => Peer::Client.address(self.topology).of(self.family),
        }
    }

    fn loopback(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Sets the TTL or hop limit of packets that leave a peer's host.
    pub fn set_ttl(&self, peer: Peer, ttl: u8) {
        let host = self.peer(peer);
        match self.family {
            Family::V4 => host.set("ipv4/ip_default_ttl", &ttl.to_string()),
            Family::V6 => host.set("ipv6/conf/eth0/hop_limit", &ttl.to_string()),
        }
    }

    /// Makes a router on the path to a peer reject packets longer than `mtu` bytes. Needs a cable
    /// with conditions.
    pub fn set_path_mtu(&self, peer: Peer, mtu: usize) {
        self.wire(peer).set_path(mtu);
    }

    /// TCP packets that the balancer's host has received from a peer. Needs a cable with
    /// conditions.
    pub fn arrived_from(&self, peer: Peer) -> Vec<Packet> {
        self.wire(peer).seen(0)
    }

    /// TCP packets that the balancer's host has sent to a peer. Needs a cable with conditions.
    pub fn left_for(&self, peer: Peer) -> Vec<Packet> {
        self.wire(peer).seen(1)
    }

    /// How often the conditions have affected a frame, summed over all cables.
    pub fn faults(&self) -> LinkFaults {
        self.wires.iter().flatten().map(Wire::faults).fold(LinkFaults::default(), LinkFaults::add)
    }

    fn wire(&self, peer: Peer) -> &Wire {
        self.wires[peer as usize].as_ref().expect("a cable that can be observed")
    }
}

/// Joins a host to a bridge.
fn plug(switch: &Namespace, host: &Namespace, port: &str, address: &HostAddress, family: Family) {
    host.ip(&format!("link add eth0 type veth peer name {port} netns {}", switch.path()));
    switch.ip(&format!("link set {port} master bridge\nlink set {port} up"));
    host.ip(&address.up("eth0", family));
}

/// Creates a host that forwards nothing.
fn host() -> io::Result<Namespace> {
    let host = Namespace::new()?;
    host.set("ipv4/ip_forward", "0");
    if has_ipv6() {
        host.set("ipv6/conf/all/forwarding", "0");
        // IPv6 then keeps addresses on a device that is down, as IPv4 does.
        host.set("ipv6/conf/all/keep_addr_on_down", "1");
    }
    Ok(host)
}

fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// The reason why such a network cannot be created, if there is one.
fn unavailable(family: Family, cables: [Cable; 2]) -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("hosts of its own need root".into());
    }
    if family == Family::V6 && !has_ipv6() {
        return Some("no IPv6 here".into());
    }
    let has_weather = cables.iter().any(|cable| cable.conditions.is_some());
    if has_weather && !Path::new(tap::DEVICE).exists() {
        return Some(format!("cables with conditions need {}", tap::DEVICE));
    }
    None
}
