//! Packet-level splicing: how a packet of one connection becomes a packet of another.
//!
//! Invariant: everything here is pure. The tc program reads packets and acts on the results, user
//! space sets the numbers, and the tests run the same code between two models of TCP.

mod checksum;
mod decide;
mod evidence;
mod header;
mod icmp;
mod layout;
#[cfg(test)]
mod model;
mod network;
mod options;
mod segment;
mod seq;
mod state;

pub use checksum::{ChecksumDelta, fold, inverse, pseudo_sum, update_checksum};
pub use decide::{decide, rescale};
pub use evidence::{
    Reset, StateUpdate, acked_by_reset, advance_local_max, classify_reset, is_near_local,
};
pub use header::{FIXED, Header};
pub use icmp::{
    IcmpWords4, IcmpWords6, QuotedSegment, read_ipv4, read_ipv6, translate_ipv4, translate_ipv6,
};
pub use layout::{
    DirectionState, DirectionWords, Globals, LOOPBACK, PacketTuple, REINJECTED, REWRITTEN, Splice,
    SpliceWords, TupleWords, ending, is_over,
};
pub use network::{
    has_hop_limit_dscp, hop_limit_dscp, with_hop_limit_dscp_v4, with_hop_limit_dscp_v6,
};
pub use options::{
    MAX as MAX_OPTIONS, OptionRewrite, Options, TsDelta, rewrite as rewrite_options,
    rewrite_usual as rewrite_usual_options, step as step_options,
};
pub use segment::{Decision, Forward, LocalDelivery, Segment, flag};
pub use seq::{is_after, later};
pub use state::{Phase, SenderState, SenderWords, SideState, SideWords, Timestamps, extended};
