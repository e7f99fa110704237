//! Reads the kernel's routes over netlink: the interface through which an address is reached,
//! notifications of changes, and the filters of an interface.
//!
//! Invariant: nothing is cached. Each request goes to the kernel. The kernel queues the answer
//! before the call that sends the request returns (net/netlink/af_netlink.c,
//! netlink_unicast_kernel), and queues the next part of a list with each part that is read.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use balance_ebpf::splice::LOOPBACK;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Sends requests to the kernel.
pub(super) struct Routes {
    socket: Mutex<Socket>,
}

/// Bytes of the longest answer, or of the longest part of a list (net/netlink/af_netlink.c,
/// netlink_dump).
const MAX_ANSWER: usize = 32 << 10;

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Mutex::new(connect()?) })
    }

    /// The index of the interface through which packets leave from one address to another: that of
    /// loopback for an address of this host.
    ///
    /// # Errors
    /// When there is no route.
    pub(super) fn interface(&self, from: IpAddr, to: IpAddr) -> io::Result<u32> {
        if to.is_loopback() {
            return Ok(LOOPBACK);
        }
        let mut request = RouteMessage::default();
        request.header.address_family =
            if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let bits = if to.is_ipv4() { 32 } else { 128 };
        request.header.destination_prefix_length = bits;
        request.header.source_prefix_length = bits;
        request.attributes.push(RouteAttribute::Destination(address(to)));
        request.attributes.push(RouteAttribute::Source(address(from)));
        match self.ask(RouteNetlinkMessage::GetRoute(request))? {
            RouteNetlinkMessage::NewRoute(route) => route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(number) => Some(*number),
                    _ => None,
                })
                .ok_or_else(|| io::ErrorKind::NetworkUnreachable.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The name of an interface whose packets begin with an Ethernet header, as those of loopback
    /// do. `None` for another interface.
    ///
    /// # Errors
    /// When the interface is gone.
    pub(super) fn ethernet(&self, interface: u32) -> io::Result<Option<String>> {
        let mut request = LinkMessage::default();
        request.header.index = interface;
        let RouteNetlinkMessage::NewLink(link) = self.ask(RouteNetlinkMessage::GetLink(request))?
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let kind = link.header.link_layer_type;
        if !matches!(kind, LinkLayerType::Ether | LinkLayerType::Loopback) {
            return Ok(None);
        }
        Ok(link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }))
    }

    fn ask(&self, request: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&socket, request, NLM_F_REQUEST)?;
        let mut answer = Vec::with_capacity(MAX_ANSWER);
        socket.recv(&mut answer, 0)?;
        drop(socket);
        read(&answer)
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The ingress filters of an interface that run a BPF program with this name.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn filters(interface: u32, program: &str) -> io::Result<Vec<Filter>> {
    let mut request = TcMessage::default();
    request.header.index = interface as i32;
    request.header.parent = TcHandle::from(INGRESS);
    let answers = list(RouteNetlinkMessage::GetTrafficFilter(request))?;
    let filters = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter),
        _ => None,
    });
    let found =
        filters.filter(|filter| runs(filter, program)).map(|TcMessage { header, .. }| Filter {
            // The lower half is the protocol (include/uapi/linux/rtnetlink.h).
            priority: (header.info >> 16) as u16,
            handle: header.handle.into(),
        });
    Ok(found.collect())
}

/// Sends a request for a list.
fn list(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    // A socket of its own: the unread part of a list would be taken for the next answer.
    let socket = connect()?;
    send(&socket, request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut answers = Vec::new();
    loop {
        let mut part = Vec::with_capacity(MAX_ANSWER);
        socket.recv(&mut part, 0)?;
        if read_part(&part, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// The parent of ingress filters (include/uapi/linux/pkt_sched.h, TC_H_CLSACT and
/// TC_H_MIN_INGRESS).
const INGRESS: u32 = 0xffff_fff2;

/// Whether a filter runs a BPF program with this name.
fn runs(filter: &TcMessage, program: &str) -> bool {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().any(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => name == program,
        _ => false,
    })
}

/// The identity of a filter on its interface.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
}

fn send(socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Parses one part of a list. True if it was the last part.
///
/// # Errors
/// When the part is not valid, or the kernel has refused.
pub(crate) fn read_part(
    mut part: &[u8],
    answers: &mut Vec<RouteNetlinkMessage>,
) -> io::Result<bool> {
    while !part.is_empty() {
        let message = NetlinkMessage::deserialize(part).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(done.code)),
            NetlinkPayload::Done(_) => return Ok(true),
            _ => return read(part).map(|_| false),
        }
        // The length is at least that of a header (netlink-packet-core), and padded to words.
        let len = message.header.length.next_multiple_of(4) as usize;
        part = part.get(len..).unwrap_or_default();
    }
    Ok(false)
}

/// The error in the kernel's answer. netlink-packet-core's own `to_io` overflows for the smallest
/// number.
fn refused(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Parses one answer.
///
/// # Errors
/// When the answer is not valid, or the kernel has refused.
pub(crate) fn read(answer: &[u8]) -> io::Result<RouteNetlinkMessage> {
    match NetlinkMessage::deserialize(answer).map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(error) => Err(refused(error.raw_code())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// A socket that is readable when routes, addresses or interfaces have changed.
pub(super) struct RouteChanges(Socket);

impl RouteChanges {
    pub(super) fn open() -> io::Result<Self> {
        // include/uapi/linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR
        // and _IPV6_ROUTE.
        const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Discards all notifications. A notification for which the kernel had no room counts as
    /// discarded.
    pub(super) fn clear(&self) {
        let mut message = Vec::with_capacity(MAX_ANSWER);
        loop {
            message.clear();
            match self.0.recv(&mut message, 0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) => return,
                _ => {}
            }
        }
    }
}

impl AsFd for RouteChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn loopback_is_found_by_address_and_by_index() {
        let routes = Routes::open().unwrap();
        let home = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(routes.interface(home, home).unwrap(), LOOPBACK);
        assert_eq!(routes.ethernet(LOOPBACK).unwrap().as_deref(), Some("lo"));
    }

    #[test]
    fn a_missing_interface_is_an_error() {
        let routes = Routes::open().unwrap();
        assert!(routes.ethernet(u32::from(u16::MAX)).is_err());
        // 240.0.0.0/4 belongs to no host, whatever the routes are.
        let nowhere = Ipv4Addr::new(240, 0, 0, 1).into();
        let _ = routes.interface(Ipv4Addr::UNSPECIFIED.into(), nowhere);
        // The next request gets its own answer.
        let home = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(routes.interface(home, home).unwrap(), LOOPBACK);
    }
}
