//! Where the fields of the kernel's `struct tcp_sock` are.
//!
//! Invariant: user space takes the offsets from the type information (BTF) of the running kernel
//! before it loads the program.

/// Offsets in the running kernel's `struct tcp_sock` that the program reads, in bytes.
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
    /// `sk_wmem_queued` of the `struct sock` at the beginning: memory of the send queue.
    pub wmem_queued: u64,
}
