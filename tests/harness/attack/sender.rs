//! Sends an attacker's packets, some hundred thousand a second.
//!
//! Invariant: every packet is given to the kernel; the network decides whether it arrives.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::AttackPacket;

/// Packets in one system call.
pub(crate) const BATCH: usize = 128;

/// A raw socket on the host of the thread that creates it. Needs CAP_NET_RAW.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    packets: Vec<Vec<u8>>,
}

impl Sender {
    /// A sender for addresses of the family of `to`.
    ///
    /// # Errors
    /// When the socket cannot be created.
    pub fn new(to: SocketAddr) -> io::Result<Self> {
        // With this protocol the sent data begins with the IP header.
        let protocol = Protocol::from(nix::libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol))?;
        socket.set_send_buffer_size(4 << 20)?;
        Ok(Self { socket, packets: Vec::new() })
    }

    /// Sends packets.
    ///
    /// # Errors
    /// When sending fails for another reason than a full queue.
    pub fn send(&mut self, packets_out: &[AttackPacket]) -> io::Result<()> {
        for batch in packets_out.chunks(BATCH) {
            self.send_batch(batch)?;
        }
        Ok(())
    }

    fn send_batch(&mut self, packets_out: &[AttackPacket]) -> io::Result<()> {
        self.packets.resize_with(BATCH, Vec::new);
        for (shot, packet) in packets_out.iter().zip(&mut self.packets) {
            shot.write(packet);
        }
        let mut sent = 0;
        while sent < packets_out.len() {
            let slices: Vec<_> =
                self.packets[sent..packets_out.len()].iter().map(|p| [IoSlice::new(p)]).collect();
            // A raw IPv6 socket accepts no port.
            let to = |shot: &AttackPacket| Some(SocketAddr::new(shot.pair.to.ip(), 0).into());
            let addresses: Vec<Option<SockaddrStorage>> =
                packets_out[sent..].iter().map(to).collect();
            let mut headers = MultiHeaders::preallocate(slices.len(), None);
            let flags = MsgFlags::empty();
            match sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags) {
                Ok(results) => sent += results.count(),
                // A full device queue: try again.
                Err(Errno::ENOBUFS | Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
