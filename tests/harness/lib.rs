//! The test harness: the program under test, its peers, and access to the state of both.
//!
//! All sockets, processes and packets are real.
//!
//! Invariants:
//! - No test waits for a fixed time; it polls a state until a deadline ([`eventually`]).
//! - Every socket has timeouts, so a hang becomes a failure.
//! - Ports come from [`ReservedPort`], so tests can run concurrently.
//! - Nothing here knows the inside of the program except the names of its BPF maps.

pub mod attack;
mod backend;
mod blackhole;
mod bpf_objects;
mod cgroup;
mod checksum;
mod client_counter;
mod command;
mod data;
mod datapath;
mod debian_package;
mod link;
mod log_sinks;
mod maps;
mod net;
mod network;
mod other_user;
mod port;
mod process_stats;
mod program;
mod raw_segment;
mod report;
mod root;
mod run_dir;
mod sending;
mod smtp;
pub mod soak;
mod supervisor;
mod wait;

pub use backend::Backend;
pub use blackhole::Blackhole;
pub use bpf_objects::BpfObjects;
pub use cgroup::ControlGroup;
pub use client_counter::{ClientCounter, visit};
pub use command::{
    KillOnDrop, Outcome, SIGNAL_OPTIONS, finish, run, run_with_input, with_signals_masked,
};
pub use data::{Digest, Pattern, Receiver, receive_all, receive_exactly, send};
pub use datapath::{Datapath, has_tcx, kernel_unavailable, kernel_works};
pub use debian_package::{package, unpacked};
pub use link::{Link, both_ways, exchange};
pub use log_sinks::{Syslog, full_pipe};
pub use maps::{FillerEntries, kernel_entries};
pub use net::{End, accept, ask, connect, end_of, listen, listen_small, reset, small_buffers};
pub use network::{
    Cable, Family, LinkConditions, LinkFaults, Namespace, Network, Packet, Peer, Switch, Topology,
};
pub use other_user::{OtherUser, open_for_all};
pub use port::ReservedPort;
pub use process_stats::{KernelMemory, Process, is_listening};
pub use program::{Balance, Builder, Event, Session, StopSummary, binary};
pub use raw_segment::{flag, send_segment};
pub use report::{note, skip};
pub use root::Root;
pub use run_dir::{ChannelRow, DaemonGuard, RunDir};
pub use sending::Sending;
pub use smtp::{Client, Sink, SinkCount, postfix_tools};
pub use supervisor::{InstanceStatus, Service};
pub use wait::{SetOnDrop, eventually};

use std::{ops::Range, time::Duration};

/// The length of writes where the length does not matter: whole chunks.
pub const WHOLE_CHUNKS: Range<usize> = 65_536..65_537;

/// The user id of the unprivileged user `nobody`.
pub const NOBODY: u32 = 65534;

/// How long one socket operation may take before it counts as a hang.
pub const TIMEOUT: Duration = Duration::from_secs(30);
