//! What happens in a scenario, before it happens.
//!
//! Invariants: a plan comes from seed and number and nothing else; two sides that follow a plan
//! without a break never wait for each other; who stops reading for good breaks off or is told of a
//! reset; all pauses together are short.

use std::{fmt, time::Duration};

use super::PayloadGenerator;

mod draw;

/// A scenario: what its two sides do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of the run.
    pub seed: u64,
    /// In the run.
    pub number: u64,
    /// How the backends take it.
    pub reception: Reception,
    /// What the client does.
    pub client: Script,
    /// What the backend does that the client comes to.
    pub backend: Script,
}

/// How the backends take a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// The first one accepts it.
    Served,
    /// The first one does not listen, that of the next group accepts it.
    Failover,
    /// None listens.
    AllDown,
    /// The first one dies before it has accepted the connection that it was sent: that breaks the
    /// client's, or the next group serves if the connect had yet to be completed.
    DiesBeforeAccept,
}

/// What one side does. Speaking and reading go on side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Size of the socket's buffers, if not the kernel's choice.
    pub buffers: Option<u32>,
    /// In this order; then it ends its direction.
    pub acts: Vec<Act>,
    /// When it does not read, in the order of their places.
    pub read_pauses: Vec<ReadPause>,
    /// How it breaks off, if it does.
    pub breaks: Option<Break>,
}

/// A part of what a side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Says so many bytes.
    Send {
        /// How many.
        bytes: u64,
        /// The most in one write.
        write: u32,
        /// Silence after each write.
        gap: Duration,
    },
    /// Says one byte, urgently.
    Urgent,
    /// Says nothing for a while.
    Pause(Duration),
    /// Says nothing until it has received so many bytes, or the end.
    AwaitBytes(u64),
    /// Says nothing until the other side has ended.
    AwaitEnd,
}

/// A time in which a side does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPause {
    /// Once it has received so many bytes.
    pub after: u64,
    /// How long; if `None` until it is told of a break or all that is to come is here.
    pub long: Option<Duration>,
}

/// A side that leaves before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// How.
    pub ending: Ending,
    /// When.
    pub moment: Moment,
    /// At the latest, from its beginning.
    pub within: Duration,
}

/// How a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Breaks off with a reset.
    Reset,
    /// Closes the socket, as the kernel does for a program that dies.
    Close,
}

/// When a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has sent so many bytes.
    Sent(u64),
    /// It has received so many bytes.
    Received(u64),
    /// It has ended its direction.
    SentEnd,
    /// The other side has ended its direction.
    ReceivedEnd,
    /// When its time is up.
    Time,
}

impl Plan {
    /// The plan of a scenario.
    pub fn new(seed: u64, number: u64) -> Self {
        draw::plan(seed, number)
    }

    /// What the client says.
    pub fn client_payload(&self) -> PayloadGenerator {
        self.payload(1)
    }

    /// What the backend says.
    pub fn backend_payload(&self) -> PayloadGenerator {
        self.payload(2)
    }

    fn payload(&self, side: u64) -> PayloadGenerator {
        PayloadGenerator(
            fastrand::Rng::with_seed(self.seed ^ self.number.rotate_left(20) ^ side).u64(..),
        )
    }

    /// Whether both sides have to come to a clean end.
    pub fn is_faultless(&self) -> bool {
        let is_served = matches!(self.reception, Reception::Served | Reception::Failover);
        is_served && self.client.breaks.is_none() && self.backend.breaks.is_none()
    }
}

impl Script {
    /// Bytes that it says if nothing breaks.
    pub fn bytes(&self) -> u64 {
        let bytes = self.acts.iter().map(|act| match act {
            Act::Send { bytes, .. } => *bytes,
            Act::Urgent => 1,
            Act::Pause(_) | Act::AwaitBytes(_) | Act::AwaitEnd => 0,
        });
        bytes.sum()
    }

    /// Time that it spends on being silent and on not reading, if nothing breaks.
    pub fn silence(&self) -> Duration {
        let silences = self.acts.iter().map(|act| match act {
            Act::Send { bytes, write, gap } => *gap * (bytes.div_ceil(u64::from(*write)) as u32),
            Act::Pause(long) => *long,
            Act::Urgent | Act::AwaitBytes(_) | Act::AwaitEnd => Duration::ZERO,
        });
        silences.sum::<Duration>()
            + self.read_pauses.iter().filter_map(|rest| rest.long).sum::<Duration>()
    }

    /// Whether it stops reading for good.
    pub fn stalls(&self) -> bool {
        self.read_pauses.iter().any(|rest| rest.long.is_none())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario {} of seed {}, {:?}", self.number, self.seed, self.reception)?;
        writeln!(f, "client: {}", self.client)?;
        write!(f, "backend: {}", self.backend)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(size) = self.buffers {
            write!(f, "buffers of {size}; ")?;
        }
        for act in &self.acts {
            match act {
                Act::Send { bytes, write, gap } => {
                    write!(f, "say {bytes} by {write}")?;
                    if !gap.is_zero() {
                        write!(f, " every {gap:?}")?;
                    }
                }
                Act::Urgent => f.write_str("say 1 urgently")?,
                Act::Pause(long) => write!(f, "pause {long:?}")?,
                Act::AwaitBytes(bytes) => write!(f, "hear up to {bytes}")?,
                Act::AwaitEnd => f.write_str("hear the end")?,
            }
            f.write_str(", ")?;
        }
        f.write_str("end")?;
        for rest in &self.read_pauses {
            match rest.long {
                Some(long) => write!(f, "; after {} no reading for {long:?}", rest.after)?,
                None => write!(f, "; after {} no reading any more", rest.after)?,
            }
        }
        if let Some(Break { ending, moment, within }) = self.breaks {
            write!(f, "; {ending:?} when {moment:?}, within {within:?}")?;
        }
        Ok(())
    }
}
