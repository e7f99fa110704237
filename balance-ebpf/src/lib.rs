//! What the BPF program and user space agree on: map names, the layout of a flow and the
//! decisions both make on it.
//!
//! Everything here is pure and compiles on the host, where it is tested; the programs in
//! `program/` only fetch the inputs and act on the answers. Invariant: a type that crosses
//! the boundary is `repr(C)`, a multiple of eight bytes, and its layout is checked by a test.

#![no_std]

mod flow;
pub mod handover;
pub mod splice;

pub use flow::{Backlog, Flow, KERNEL, Position, QUANTUM, SKB_OVERHEAD, USER, fault, passed};

/// Names of maps, globals and programs in the BPF object.
pub mod names {
    /// Sockmap without programs, by slot: the socket that a flow is redirected to.
    pub const TARGETS: &str = "TARGETS";
    /// Sockmap with the verdict, by slot: the socket that a flow is read from.
    pub const SOURCES: &str = "SOURCES";
    /// Hash from the cookie of a source socket to its slot.
    pub const SLOTS: &str = "SLOTS";
    /// Memory-mapped array of [`Flow`](crate::Flow), by slot.
    pub const FLOWS: &str = "FLOWS";
    /// Ring buffer of slots (`u32`) that have just been handed to user space.
    pub const EVENTS: &str = "EVENTS";
    /// Global: how much a flow may have outstanding, in cost units of about a byte.
    pub const LIMIT: &str = "LIMIT";
    /// Global: [`Offsets`](crate::Offsets) of the running kernel.
    pub const OFFSETS: &str = "OFFSETS";
    /// Global of aya-log: the highest level that is sent to user space.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
    /// The verdict program.
    pub const VERDICT: &str = "balance_verdict";
    /// Hash from the addresses of an arriving packet to twice its slot, plus the side.
    pub const PLACES: &str = "PLACES";
    /// Memory-mapped array of [`Splice`](crate::splice::Splice), by slot.
    pub const SPLICES: &str = "SPLICES";
    /// Ring buffer of slots (`u32`) of which something of the end was seen.
    pub const ENDINGS: &str = "ENDINGS";
    /// Memory-mapped array of [`Common`](crate::splice::Common), of one element.
    pub const COMMON: &str = "COMMON";
    /// The splice program.
    pub const SPLICE: &str = "balance_splice";
}

/// Where the running kernel's `struct tcp_sock` has what the program reads of it, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `bytes_acked`: bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// `write_seq`: sequence number behind the last byte written.
    pub write_seq: u64,
    /// `snd_una`: sequence number of the first byte not acknowledged.
    pub snd_una: u64,
    /// `copied_seq`: sequence number of the next byte that a reader gets.
    pub copied_seq: u64,
    /// `sk_wmem_queued` of the `struct sock` at its beginning: memory of the send queue.
    pub wmem_queued: u64,
}

/// Slots in the maps of the object as compiled; user space sets the real number when it loads.
pub const DEFAULT_SLOTS: u32 = 1024;

/// Bytes of the event ring buffer: room for 16,384 flows changing hands at the same moment.
/// When it is full a flow stays in the kernel for another [`QUANTUM`] and tries again.
pub const EVENT_BYTES: u32 = 1 << 18;
