//! What the kernel's routes say: through which interface an address is reached, when that may have
//! changed, and which filters an interface has.
//!
//! Invariant: nothing is remembered here; each question goes to the kernel, which answers it
//! before the call that asks returns (net/netlink/af_netlink.c, netlink_unicast_kernel), or goes on to
//! with each part of a list that is read.

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

/// Asks the kernel.
pub(super) struct Routes {
    socket: Mutex<Socket>,
}

/// Bytes of the longest answer, or part of a list (net/netlink/af_netlink.c, netlink_dump).
const ANSWER: usize = 32 << 10;

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Mutex::new(connect()?) })
    }

    /// The number of the interface through which packets leave from one address to another; that
    /// of loopback if it is an address of this host.
    ///
    /// # Errors
    /// When there is no route.
    pub(super) fn interface(&self, from: IpAddr, to: IpAddr) -> io::Result<u32> {
        if to.is_loopback() {
            return Ok(LOOPBACK);
        }
        let mut question = RouteMessage::default();
        question.header.address_family =
            if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let bits = if to.is_ipv4() { 32 } else { 128 };
        question.header.destination_prefix_length = bits;
        question.header.source_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(address(to)));
        question.attributes.push(RouteAttribute::Source(address(from)));
        match self.ask(RouteNetlinkMessage::GetRoute(question))? {
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

    /// The name of an interface, if its packets begin with the header of Ethernet, as those of
    /// loopback do.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn ethernet(&self, interface: u32) -> io::Result<Option<String>> {
        let mut question = LinkMessage::default();
        question.header.index = interface;
        let RouteNetlinkMessage::NewLink(link) =
            self.ask(RouteNetlinkMessage::GetLink(question))?
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

    fn ask(&self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&socket, question, NLM_F_REQUEST)?;
        let mut answer = Vec::with_capacity(ANSWER);
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

/// The filters for what arrives on an interface that run a BPF program of that name.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn filters(interface: u32, program: &str) -> io::Result<Vec<Filter>> {
    let mut question = TcMessage::default();
    question.header.index = interface as i32;
    question.header.parent = TcHandle::from(INGRESS);
    let answers = list(RouteNetlinkMessage::GetTrafficFilter(question))?;
    let filters = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter),
        _ => None,
    });
    let found =
        filters.filter(|filter| runs(filter, program)).map(|TcMessage { header, .. }| Filter {
            // include/uapi/linux/rtnetlink.h: the other half is the protocol.
            priority: (header.info >> 16) as u16,
            handle: header.handle.into(),
        });
    Ok(found.collect())
}

/// Asks what has any number of answers.
fn list(question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    // Its own, as what is not read of a list would answer the next question.
    let socket = connect()?;
    send(&socket, question, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut answers = Vec::new();
    loop {
        let mut part = Vec::with_capacity(ANSWER);
        socket.recv(&mut part, 0)?;
        if read_part(&part, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Where filters for what arrives are (include/uapi/linux/pkt_sched.h, TC_H_CLSACT and
/// TC_H_MIN_INGRESS).
const INGRESS: u32 = 0xffff_fff2;

/// Whether a filter runs a BPF program of that name.
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

/// What a filter is known by on its interface.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
}

fn send(socket: &Socket, question: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(question);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads several answers; true if there are no more to come.
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
        // Which is not less than that of a header (netlink-packet-core), and padded to words.
        let len = message.header.length.next_multiple_of(4) as usize;
        part = part.get(len..).unwrap_or_default();
    }
    Ok(false)
}

/// The error that the kernel answers with. Not by netlink-packet-core's own `to_io`, which overflows for
/// the least number.
fn refused(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Reads an answer.
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

/// Is readable when routes, addresses or interfaces have changed.
pub(super) struct Changes(Socket);

impl Changes {
    pub(super) fn open() -> io::Result<Self> {
        // include/uapi/linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR
        // and _IPV6_ROUTE.
        const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Throws away what has been told. What the kernel had no room to tell counts as told.
    pub(super) fn clear(&self) {
        let mut message = Vec::with_capacity(ANSWER);
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

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn loopback_is_found_by_address_and_by_number() {
        let routes = Routes::open().unwrap();
        let home = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(routes.interface(home, home).unwrap(), LOOPBACK);
        assert_eq!(routes.ethernet(LOOPBACK).unwrap().as_deref(), Some("lo"));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let routes = Routes::open().unwrap();
        assert!(routes.ethernet(u32::from(u16::MAX)).is_err());
        // 240.0.0.0/4 is nobody's, whatever the routes are.
        let nowhere = Ipv4Addr::new(240, 0, 0, 1).into();
        let _ = routes.interface(Ipv4Addr::UNSPECIFIED.into(), nowhere);
        // The next question gets its own answer.
        let home = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(routes.interface(home, home).unwrap(), LOOPBACK);
    }
}
