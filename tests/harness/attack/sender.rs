//! What puts an attacker's packets on the wire, some hundred thousand a second.
//!
//! Invariant: every packet is given to the kernel; whether it gets anywhere is the network's.

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

/// Packets given to the kernel at once.
pub(crate) const BATCH: usize = 128;

/// A raw socket of the host that the thread is on which makes it. Needs CAP_NET_RAW.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    packets: Vec<Vec<u8>>,
}

impl Sender {
    /// One for packets to addresses of the family of `to`.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn new(to: SocketAddr) -> io::Result<Self> {
        // With this protocol what is sent begins with the IP header.
        let protocol = Protocol::from(nix::libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol))?;
        socket.set_send_buffer_size(4 << 20)?;
        Ok(Self { socket, packets: Vec::new() })
    }

    /// Sends packets.
    ///
    /// # Errors
    /// When the system does not let us.
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
            // A raw socket of IPv6 takes no port.
            let to = |shot: &AttackPacket| Some(SocketAddr::new(shot.pair.to.ip(), 0).into());
            let addresses: Vec<Option<SockaddrStorage>> =
                packets_out[sent..].iter().map(to).collect();
            let mut headers = MultiHeaders::preallocate(slices.len(), None);
            let flags = MsgFlags::empty();
            match sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags) {
                Ok(results) => sent += results.count(),
                // The queue of the device is full.
                Err(Errno::ENOBUFS | Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
