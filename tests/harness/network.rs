//! Hosts of a test's own, joined by cables: where client, program and server are not on one host.
//!
//! Invariants: no host forwards packets, so that whatever passes from one to another goes through
//! the program; nothing of a network is left when it is dropped.

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

/// Who is on which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Client and server on hosts of their own, on both sides of the program's.
    Apart,
    /// Client and server on hosts of their own, both behind the only device of the program's.
    OneInterface,
    /// Client and server on one host, at one address.
    SharedPeerHost,
    /// The server on the program's host, at the address that clients connect to as well.
    ServerOnBalancer,
    /// The server at the loopback of the program's host.
    ServerOnLoopback,
    /// The client on the program's host.
    ClientOnBalancer,
    /// Client and server on the program's host, at its loopback.
    SingleHost,
}

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What joins the host of a peer to that of the program.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// Bytes that a packet may have.
    pub mtu: usize,
    /// What happens to frames on it; nothing, on a pair of devices with all the kernel's
    /// offloads, if `None`.
    pub conditions: Option<LinkConditions>,
}

impl Cable {
    /// A pair of devices inside the kernel.
    pub const PLAIN: Self = Self { mtu: 1500, conditions: None };

    /// A cable that can be observed, with nothing else about it.
    pub fn observed() -> Self {
        Self::with(LinkConditions::default())
    }

    /// A cable with conditions.
    pub fn with(conditions: LinkConditions) -> Self {
        Self { conditions: Some(conditions), ..Self::PLAIN }
    }

    /// One for packets of another size.
    pub fn mtu(self, mtu: usize) -> Self {
        Self { mtu, ..self }
    }
}

/// A side of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

/// A number that no device's other end has: only then does the kernel take it for one at once
/// that has another end, and not after a second.
const PEER_INDEX: &str = "index 100";

/// The hosts, and what is between them.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    family: Family,
    balancer: Namespace,
    /// The client's host and the server's, unless they are the program's.
    peers: [Option<Namespace>; 2],
    /// Hosts of more servers.
    extra_servers: Vec<Namespace>,
    /// A host that is on no path between the extra_servers.
    off_path_host: Option<Namespace>,
    /// What joins them.
    switch: Option<Namespace>,
    wires: [Option<Wire>; 2],
}

/// The subnet of the first of more servers.
const EXTRA_SUBNET: u8 = 3;

/// The subnet of a host that is on no path.
const OFF_PATH_SUBNET: u8 = 99;

/// State of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Nothing comes and goes.
    Off,
    /// As usual.
    On,
}

/// Subnet and number in it of a host's address.
struct HostAddress(u8, u8);

impl HostAddress {
    fn of(&self, family: Family) -> IpAddr {
        let &Self(subnet, host) = self;
        match family {
            Family::V4 => Ipv4Addr::new(10, 11, subnet, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd11, subnet.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// What ip(8) is told to give the address to a device and start it.
    fn up(&self, device: &str, family: Family) -> String {
        let address = self.of(family);
        let rest = match family {
            Family::V4 => "/24",
            // It is there at once.
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

    /// The program's address towards it, if it is on a host of its own.
    fn gateway(self, topology: Topology) -> HostAddress {
        match (self, topology) {
            (Peer::Server, Topology::Apart | Topology::ClientOnBalancer) => HostAddress(2, 1),
            _ => HostAddress(1, 1),
        }
    }

    /// The program's device towards it.
    fn device(self) -> &'static str {
        match self {
            Peer::Client => "to-client",
            Peer::Server => "to-server",
        }
    }
}

impl Network {
    /// Hosts joined by pairs of devices; `None` where that cannot be had, and the reason has been
    /// printed.
    pub fn new(topology: Topology, family: Family) -> Option<Self> {
        Self::with(topology, family, [Cable::PLAIN; 2])
    }

    /// The same with other cables, to the client and to the server. Only those that the topology
    /// has count, and behind one interface there are plain ones only.
    pub fn with(topology: Topology, family: Family, cables: [Cable; 2]) -> Option<Self> {
        let built = match obstacle(family, cables) {
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

    /// Makes a peer's host and joins it to the program's.
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
                // Long queues: no frame is lost but those that the conditions takes.
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

    /// Makes both peers' hosts and joins them and the program's by a switch.
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

    /// Adds a host that reaches the program's and is on no path: by the switch, or by a cable of its own.
    /// The program's host takes packets with any source address from it.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn add_off_path_host(&mut self) -> io::Result<()> {
        const DEVICE: &str = "to-off_path_host";

        if self.topology == Topology::SingleHost {
            return Ok(());
        }
        let (host, device) = (host()?, if self.switch.is_some() { "eth0" } else { DEVICE });
        if let Some(switch) = &self.switch {
            let address = HostAddress(Peer::Client.address(self.topology).0, 9);
            plug(switch, &host, "off_path_host", &address, self.family);
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

    /// The host that is on no path, or the program's if everything is there.
    pub fn off_path_host(&self) -> &Namespace {
        self.off_path_host.as_ref().unwrap_or(&self.balancer)
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        [&self.balancer].into_iter().chain(self.peers.iter().flatten()).chain(&self.extra_servers)
    }

    /// One more server's host, joined to the program's by a cable of its own; returns its number,
    /// from 0.
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

    /// Host of one more server, and where it listens; any port.
    pub fn extra_server(&self, number: usize) -> (&Namespace, SocketAddr) {
        let address = HostAddress(EXTRA_SUBNET + number as u8, 2).of(self.family);
        (&self.extra_servers[number], (address, 0).into())
    }

    /// Lets every packet between the program's host and the server's get lost without a word, or
    /// no longer.
    pub fn set_server_cut_off(&self, is_cut: bool) {
        // To a link address that nobody has.
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

    /// Switches the device of a peer's host off, or on again.
    pub fn switch(&self, peer: Peer, state: Switch) {
        let state = match state {
            Switch::Off => "down",
            Switch::On => "up",
        };
        self.peer(peer).ip(&format!("link set eth0 {state}"));
    }

    /// Gives the program's host one more address towards the server.
    pub fn add_balancer_address(&self) -> IpAddr {
        let address = HostAddress(Peer::Server.gateway(self.topology).0, 9);
        self.balancer.ip(&address.up(Peer::Server.device(), self.family));
        address.of(self.family)
    }

    /// Gives the client's host more addresses: of these numbers, in its subnet.
    pub fn add_client_addresses(&self, numbers: Range<u8>) -> Vec<IpAddr> {
        let subnet = Peer::Client.address(self.topology).0;
        let places: Vec<_> = numbers.map(|number| HostAddress(subnet, number)).collect();
        let up: Vec<_> = places.iter().map(|address| address.up("eth0", self.family)).collect();
        self.peer(Peer::Client).ip(&up.join("\n"));
        places.iter().map(|address| address.of(self.family)).collect()
    }

    /// The program's host.
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

    /// Where the program listens; any port.
    pub fn listen_address(&self) -> SocketAddr {
        let peer = match self.topology {
            Topology::SingleHost => return (self.loopback(), 0).into(),
            Topology::ClientOnBalancer => Peer::Server,
            _ => Peer::Client,
        };
        (peer.gateway(self.topology).of(self.family), 0).into()
    }

    /// Where the server listens; any port.
    pub fn backend(&self) -> SocketAddr {
        let address = match (self.topology, self.family) {
            (Topology::ServerOnBalancer, _) => Peer::Client.gateway(self.topology).of(self.family),
            (Topology::ServerOnLoopback | Topology::SingleHost, _) => self.loopback(),
            _ => Peer::Server.address(self.topology).of(self.family),
        };
        (address, 0).into()
    }

    /// The address that a client has.
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

    /// Has all packets of a peer's host leave with that time to live, or hop limit.
    pub fn set_ttl(&self, peer: Peer, ttl: u8) {
        let host = self.peer(peer);
        match self.family {
            Family::V4 => host.set("ipv4/ip_default_ttl", &ttl.to_string()),
            Family::V6 => host.set("ipv6/conf/eth0/hop_limit", &ttl.to_string()),
        }
    }

    /// Has a router on the direction to a peer, over a cable with conditions, take packets of no more than so many bytes.
    pub fn set_path_mtu(&self, peer: Peer, mtu: usize) {
        self.wire(peer).set_path(mtu);
    }

    /// TCP packets so far that have come to the program's host from a peer, over a cable with
    /// conditions.
    pub fn arrived_from(&self, peer: Peer) -> Vec<Packet> {
        self.wire(peer).seen(0)
    }

    /// TCP packets so far that have left the program's host for a peer, over a cable with conditions.
    pub fn left_for(&self, peer: Peer) -> Vec<Packet> {
        self.wire(peer).seen(1)
    }

    /// What the conditions has done so far, on all cables together.
    pub fn faults(&self) -> LinkFaults {
        self.wires.iter().flatten().map(Wire::faults).fold(LinkFaults::default(), LinkFaults::add)
    }

    fn wire(&self, peer: Peer) -> &Wire {
        self.wires[peer as usize].as_ref().expect("a cable that can be observed")
    }
}

/// Joins a host to a switch.
fn plug(switch: &Namespace, host: &Namespace, port: &str, address: &HostAddress, family: Family) {
    host.ip(&format!("link add eth0 type veth peer name {port} netns {}", switch.path()));
    switch.ip(&format!("link set {port} master bridge\nlink set {port} up"));
    host.ip(&address.up("eth0", family));
}

/// A host that forwards nothing.
fn host() -> io::Result<Namespace> {
    let host = Namespace::new()?;
    host.set("ipv4/ip_forward", "0");
    if has_ipv6() {
        host.set("ipv6/conf/all/forwarding", "0");
        // As those of IPv4 do.
        host.set("ipv6/conf/all/keep_addr_on_down", "1");
    }
    Ok(host)
}

fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Why no such network can be had, if so.
fn obstacle(family: Family, cables: [Cable; 2]) -> Option<String> {
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
