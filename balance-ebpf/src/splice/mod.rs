//! Packet-level splicing: what becomes of a packet of one connection on its way into another.
//!
//! Everything here is pure: the tc program fetches packets and acts on the answers, user space
//! sets the numbers, and the tests run the same code between two models of TCP.

mod checksum;
mod evidence;
mod header;
mod icmp;
mod judge;
#[cfg(test)]
mod model;
mod network;
mod options;
mod seq;
mod shared;

pub use checksum::{Difference, back, fold, mend, pseudo_sum};
pub use evidence::{Evidence, News, Reset, acked_by_reset, extended, is_near, judge_reset};
pub use header::{FIXED, Header};
pub use icmp::{Message4, Message6, Quote, read_ipv4, read_ipv6, readdress_ipv4, readdress_ipv6};
pub use judge::{Forward, Judgement, Local, Segment, Side, flag, judge, note, phase, rescale};
pub use network::{head, is_own_ipv4, own_ipv4, own_ipv6};
pub use options::{
    Change, MOST as MOST_OPTIONS, Options, Stamps, rewrite as rewrite_options,
    rewrite_usual as rewrite_usual_options, step as step_options,
};
pub use seq::{is_after, later};
pub use shared::{Common, Key, LOOPBACK, REWRITTEN, Splice, TURNED, Way, ending, is_over};
