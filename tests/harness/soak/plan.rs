//! The plan of a scenario.
//!
//! Invariants: a plan depends only on seed and number. Two sides that follow a plan without a break
//! never wait for each other. A side that stops reading for good breaks off or gets a reset. All
//! pauses together are short.

use std::{fmt, time::Duration};

use super::PayloadGenerator;

mod draw;

/// What the two sides of a scenario do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seed of the run.
    pub seed: u64,
    /// Number in the run.
    pub number: u64,
    /// How the backends receive the client.
    pub reception: Reception,
    /// What the client does.
    pub client: Script,
    /// What the backend does that the client reaches.
    pub backend: Script,
}

/// How the backends receive a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// The first backend accepts.
    Served,
    /// The first backend does not listen; the backend of the next group accepts.
    Failover,
    /// No backend listens.
    AllDown,
    /// The first backend closes its listener before it accepts the connection. That resets the
    /// client's connection; if the connect had not completed, the next group serves the client.
    DiesBeforeAccept,
}

/// What one side does. It sends and reads concurrently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Size of the socket buffers; `None` for the kernel's choice.
    pub buffers: Option<u32>,
    /// Acts in order; then the side ends its direction.
    pub acts: Vec<Act>,
    /// Pauses of reading, ordered by offset.
    pub read_pauses: Vec<ReadPause>,
    /// How the side breaks off, if it does.
    pub breaks: Option<Break>,
}

/// One step of what a side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends this many bytes.
    Send {
        /// Number of bytes.
        bytes: u64,
        /// Maximum length of one write.
        write: u32,
        /// Pause after each write.
        gap: Duration,
    },
    /// Sends one urgent byte.
    Urgent,
    /// Sends nothing for a while.
    Pause(Duration),
    /// Sends nothing until this many bytes, or the end, have been received.
    AwaitBytes(u64),
    /// Sends nothing until the other side has ended.
    AwaitEnd,
}

/// A period in which a side does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPause {
    /// Begins after this many received bytes.
    pub after: u64,
    /// Duration. `None` lasts until the connection breaks or all that is to come has arrived.
    pub long: Option<Duration>,
}

/// A break: a side leaves before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// How the side leaves.
    pub ending: Ending,
    /// When the side leaves.
    pub moment: Moment,
    /// Latest time of the break, from the start of the side.
    pub within: Duration,
}

/// How a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a RST.
    Reset,
    /// Closes the socket, as the kernel does for a process that dies.
    Close,
}

/// When a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After sending this many bytes.
    Sent(u64),
    /// After receiving this many bytes.
    Received(u64),
    /// After ending its direction.
    SentEnd,
    /// After the other side has ended.
    ReceivedEnd,
    /// When its time is over.
    Time,
}

impl Plan {
    /// Draws the plan of a scenario.
    pub fn new(seed: u64, number: u64) -> Self {
        draw::plan(seed, number)
    }

    /// Payload of the client.
    pub fn client_payload(&self) -> PayloadGenerator {
        self.payload(1)
    }

    /// Payload of the backend.
    pub fn backend_payload(&self) -> PayloadGenerator {
        self.payload(2)
    }

    fn payload(&self, side: u64) -> PayloadGenerator {
        PayloadGenerator(
            fastrand::Rng::with_seed(self.seed ^ self.number.rotate_left(20) ^ side).u64(..),
        )
    }

    /// Whether both sides must end cleanly.
    pub fn is_faultless(&self) -> bool {
        let is_served = matches!(self.reception, Reception::Served | Reception::Failover);
        is_served && self.client.breaks.is_none() && self.backend.breaks.is_none()
    }
}

impl Script {
    /// Bytes that the side sends without a break.
    pub fn bytes(&self) -> u64 {
        let bytes = self.acts.iter().map(|act| match act {
            Act::Send { bytes, .. } => *bytes,
            Act::Urgent => 1,
            Act::Pause(_) | Act::AwaitBytes(_) | Act::AwaitEnd => 0,
        });
        bytes.sum()
    }

    /// Total time of pauses without a break.
    pub fn silence(&self) -> Duration {
        let silences = self.acts.iter().map(|act| match act {
            Act::Send { bytes, write, gap } => *gap * (bytes.div_ceil(u64::from(*write)) as u32),
            Act::Pause(long) => *long,
            Act::Urgent | Act::AwaitBytes(_) | Act::AwaitEnd => Duration::ZERO,
        });
        silences.sum::<Duration>()
            + self.read_pauses.iter().filter_map(|rest| rest.long).sum::<Duration>()
    }

    /// Whether the side stops reading for good.
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
                    write!(f, "send {bytes} by {write}")?;
                    if !gap.is_zero() {
                        write!(f, " every {gap:?}")?;
                    }
                }
                Act::Urgent => f.write_str("send 1 urgently")?,
                Act::Pause(long) => write!(f, "pause {long:?}")?,
                Act::AwaitBytes(bytes) => write!(f, "wait for {bytes} received")?,
                Act::AwaitEnd => f.write_str("wait for the end")?,
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
