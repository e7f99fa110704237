//! What the tests share: the program under test, its peers, and ways to look at both.
//!
//! Everything here uses real sockets and the real program. Invariants: nothing waits for a
//! fixed time, only for a state with a deadline ([`eventually`]); every socket has timeouts, so
//! that a hang becomes a failure; ports come from [`ReservedPort`], so that tests can run side
//! by side. Deliberately absent: any knowledge of how the program works inside, other than the
//! names of its BPF maps.

pub mod attack;
mod backend;
mod blackhole;
mod cgroup;
mod checksum;
mod command;
mod control;
mod data;
mod datapath;
mod eventually;
mod forge;
mod inbox;
mod inkernel;
mod inspect;
pub mod life;
mod link;
mod logged;
mod maps;
mod net;
mod network;
mod package;
mod port;
mod program;
mod report;
mod root;
mod seats;
mod sending;
mod service;
mod smtp;

pub use backend::Backend;
pub use blackhole::Blackhole;
pub use cgroup::ControlGroup;
pub use command::{CARELESS, KillOnDrop, Outcome, by_careless_parent, finish, run, run_with_input};
pub use control::{Daemons, Row, RunDir};
pub use data::{Digest, Pattern, Receiver, receive_all, receive_exactly, send};
pub use datapath::{Datapath, has_tcx, kernel_obstacle, kernel_works};
pub use eventually::{SetOnDrop, eventually};
pub use forge::{flag, forge};
pub use inbox::HeldInbox;
pub use inkernel::InKernel;
pub use inspect::{KernelMemory, Process, is_listening};
pub use link::{Link, both_ways, exchange};
pub use logged::{Syslog, full_pipe};
pub use maps::{Junk, kernel_entries};
pub use net::{End, accept, ask, connect, end_of, listen, listen_small, reset, small_buffers};
pub use network::{
    Cable, Family, Faults, Namespace, Network, Packet, Peer, Switch, Topology, Weather,
};
pub use package::{package, unpacked};
pub use port::ReservedPort;
pub use program::{Balance, Builder, Event, Session, Stopped, binary};
pub use report::{note, skip};
pub use root::Root;
pub use seats::{Seats, visit};
pub use sending::Sending;
pub use service::{InstanceStatus, Service};
pub use smtp::{Client, Sink, SinkCount, postfix_tools};

use std::{ops::Range, time::Duration};

/// Lengths of writes where a test does not care: whole chunks.
pub const WHOLE: Range<usize> = 65_536..65_537;

/// How long a single socket operation may take before it counts as a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);
