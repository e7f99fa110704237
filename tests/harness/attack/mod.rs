//! Attacks on a connection by a host that knows addresses and ports, and sees no packet.
//!
//! Invariant: an attack uses real devices, sockets and programs. Harm is what the peers or the
//! program's counters show.

mod attack_thread;
mod kind;
mod moments;
mod packet;
mod run;
mod scene;
mod sender;
mod throughput;
mod victim;

pub use attack_thread::BackgroundAttack;
pub use kind::{AttackKind, PacketGenerator};
pub use moments::{
    HarmReport, before_the_first_byte, during_join, while_idle, with_vanished_client,
};
pub use packet::{AddressPair, AttackPacket, BYTE, IpShape};
pub use run::{Attack, AttackOutcome};
pub use scene::{Placement, Scene, SceneConfig};
pub use sender::Sender;
pub use throughput::{Load, ThroughputFigures, compare};
pub use victim::{KnownPair, Victim};
