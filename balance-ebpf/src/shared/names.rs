//! Names of maps, globals and programs in the BPF objects.
//!
//! Invariant: each name is that of a static or function of the program that the comment describes.

/// Sockmap without programs, by slot: the socket that a flow is redirected to.
pub const TARGETS: &str = "TARGETS";
/// Sockmap with the verdict program, by slot: the socket that a flow is read from.
pub const SOURCES: &str = "SOURCES";
/// Hash map from the cookie of a source socket to its slot.
pub const SLOTS: &str = "SLOTS";
/// Memory-mapped array of [`Flow`](crate::sockmap::Flow), by slot.
pub const FLOWS: &str = "FLOWS";
/// Ring buffer of slots (`u32`) that the program has just handed to user space.
pub const EVENTS: &str = "EVENTS";
/// Global: the largest amount that a flow may have outstanding, in cost units of about a byte.
pub const LIMIT: &str = "LIMIT";
/// Global: [`Offsets`](crate::sockmap::Offsets) of the running kernel.
pub const OFFSETS: &str = "OFFSETS";
/// Global of aya-log: the highest level that the program sends to user space.
pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// The verdict program of the sockmap datapath.
pub const VERDICT: &str = "balance_verdict";
/// Hash map from the addresses of an arriving packet to twice its slot, plus the side.
pub const TUPLES: &str = "TUPLES";
/// Memory-mapped array of [`SpliceWords`](crate::splice::SpliceWords), by slot.
pub const SPLICES: &str = "SPLICES";
/// Ring buffer of slots (`u32`) of connections that are ending.
pub const ENDINGS: &str = "ENDINGS";
/// Memory-mapped array of one [`Globals`](crate::splice::Globals).
pub const GLOBALS: &str = "GLOBALS";
/// The splice program.
pub const SPLICE: &str = "balance_splice";
