//! Attacks on a connection by a host that knows addresses and ports, and sees no packet.
//!
//! Invariant: an attack goes through the real devices, sockets and programs; what counts as harm is
//! what the peers, or those who read the program's counters, notice.

mod barrage;
mod kind;
mod moments;
mod packet;
mod run;
mod scene;
mod sender;
mod throughput;
mod victim;

pub use barrage::Barrage;
pub use kind::{Guesses, Kind};
pub use moments::{Harm, before_the_first_word, while_idle, while_joined, while_vanished};
pub use packet::{BYTE, Pair, Shape, Shot};
pub use run::{Attack, Outcome};
pub use scene::{Place, Scene, Setting};
pub use sender::Sender;
pub use throughput::{Figures, Load, compare};
pub use victim::{Known, Victim};
