//! The ICMP error of a router for a packet that exceeds the path MTU (RFC 1191, RFC 8201).
//!
//! Invariant: the error quotes the rejected packet.

use super::packet::HEADER;
use crate::checksum::checksum;

/// The minimum IPv6 MTU (RFC 8200, 5), which an ICMPv6 error must not exceed.
const LEAST: usize = 1280;

/// The frame with the ICMP error for the sender of `frame`, if `frame` has an IP packet of more
/// than `mtu` bytes. Its source address is the destination of the rejected packet.
pub(super) fn too_big(frame: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (link, packet) = frame.split_at_checked(HEADER)?;
    if packet.len() <= mtu {
        return None;
    }
    let mut answer = [&link[6..12], &link[..6], &link[12..]].concat();
    match link[12..] {
        [0x08, 0x00] => answer.extend(over_ipv4(packet, mtu)),
        [0x86, 0xdd] => answer.extend(over_ipv6(packet, mtu)),
        _ => return None,
    }
    Some(answer)
}

fn over_ipv4(packet: &[u8], mtu: usize) -> Vec<u8> {
    /// IPv4 header and the first 8 bytes of TCP (RFC 792).
    const QUOTED: usize = 28;

    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend((mtu as u16).to_be_bytes());
    message.extend(&packet[..QUOTED]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0x45, 0, 0, 20 + message.len() as u8, 0, 0, 0, 0, 62, 1, 0, 0];
    header.extend(&packet[16..20]);
    header.extend(&packet[12..16]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, message].concat()
}

fn over_ipv6(packet: &[u8], mtu: usize) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0];
    message.extend((mtu as u32).to_be_bytes());
    message.extend(&packet[..packet.len().min(LEAST - 48)]);
    let addresses = [&packet[24..40], &packet[8..24]].concat();
    let length = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[&addresses[..], &length, &[0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0x60, 0, 0, 0, length[2], length[3], 58, 62];
    header.extend(addresses);
    [header, message].concat()
}
