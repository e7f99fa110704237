//! The system calls of the program, each behind a safe function.
//!
//! `raw` holds the calls that neither the standard library nor nix, caps or socket2 offers. The
//! other files are built on `raw` and those crates, one file for each subject.
//!
//! Invariant: only `raw` and `datapath::offload::mapped` call libc functions. Every function that
//! takes a descriptor borrows it, so the descriptor stays open during the call.

mod bpf;
mod clock;
pub mod daemon;
pub(crate) mod memory;
pub(crate) mod privileges;
mod process;
mod raw;
pub mod signals;
mod socket;
mod tcp;
mod tcp_repair;

pub(crate) use bpf::{first_ingress_program, rcu_grace_period};
pub(crate) use clock::monotonic;
pub(crate) use process::{
    close_on_exec_from, effective_user, lift_locked_memory_limit, open_descriptors,
    open_file_limit, raise_open_file_limit, set_name,
};
pub(crate) use socket::{
    disconnect, hop_limit_and_traffic_class, path_mtu, poll_now, receive_memory, recv, send,
    send_memory, send_queue, set_int, unread,
};
pub(crate) use tcp::{
    Negotiated, acknowledge_now, bytes_received, is_closed, negotiated, send_mss, send_state,
    send_window,
};
pub(crate) use tcp_repair::{
    SequenceNumbers, enter_repair, peer_mss, rcv_nxt, receive_window, repair_connect,
    send_window_probe, sequence_numbers, snd_wl1, timestamp_clock,
};
