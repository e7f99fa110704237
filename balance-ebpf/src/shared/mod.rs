//! What both datapaths use: map names, capacities, the sides of a pair and words in shared memory.
//!
//! Invariant: nothing here knows a datapath.

pub mod names;
mod side;
mod word;

pub use side::{PerSide, Side};
pub use word::{Shared, Word, WordValue};
pub(crate) use word::{shared_struct, word_enum};

/// Slots in the maps of the object as compiled. User space sets the real number when it loads the
/// object.
pub const DEFAULT_SLOTS: u32 = 1024;

/// Bytes of an event ring buffer: room for 16,384 events at the same moment.
pub const EVENT_BYTES: u32 = 1 << 18;
