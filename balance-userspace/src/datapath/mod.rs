//! The seam between connections and what moves their bytes.
//!
//! A connected pair goes to a datapath, which owns both ends until both directions have ended
//! and reports bytes and outcome. Nothing above knows which datapath runs; nothing below knows
//! of channels, groups or commands. A connection that one datapath cannot take goes to the next.

mod buffers;
mod dump;
mod mapped;
mod object;
mod pair;
mod pump;
mod relay;
mod slots;
pub(crate) mod sockmap;
pub(crate) mod splice;
mod traffic;

use std::{fmt, io, sync::Arc, time::Duration};

pub(crate) use buffers::Pool;
pub(crate) use pair::{Cut, End, Pair, Report};
pub(crate) use traffic::Traffic;

use crate::{
    args::{self, Args},
    error::StartError,
    stream::SocketOptions,
};

/// What moves the bytes of new connections.
#[derive(Clone)]
pub(crate) enum Datapath {
    /// In user space; with the bytes on standard output (`-p`) or without.
    Relay { dump: bool },
    /// In the kernel, by a sockmap program, once user space has made so many turns.
    Sockmap { kernel: Arc<sockmap::Kernel>, after: u32 },
    /// By the peers themselves: a program makes the packets of one connection packets of the other,
    /// once user space has made so many turns.
    Splice { kernel: Arc<splice::Kernel>, after: u32 },
}

/// A datapath's name in logs and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Relay,
    Sockmap,
    Splice,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Sockmap => "sockmap",
            Self::Splice => "splice",
        })
    }
}

/// A datapath that is ready, and why it is this one.
pub(crate) struct Choice {
    pub(crate) datapath: Datapath,
    pub(crate) why: String,
}

impl Choice {
    /// Makes the datapath that was asked for ready, for `connections` at a time; `auto` takes
    /// the best that passes its self-test.
    ///
    /// # Errors
    /// When one was asked for by name and does not work here.
    pub(crate) fn make(args: &Args, connections: usize) -> Result<Self, StartError> {
        let (wanted, dump) = (args.datapath, args.dump);
        let relay = |why: &str| Self { datapath: Datapath::Relay { dump }, why: why.to_owned() };
        if dump {
            return Ok(relay("-p shows the bytes, so they pass through user space"));
        }
        if wanted == args::Datapath::Relay {
            return Ok(relay("asked for"));
        }
        if wanted == args::Datapath::Splice {
            return match splice::start(connections) {
                Ok((kernel, took)) => Ok(Self {
                    datapath: Datapath::Splice { kernel, after: args.offload_after },
                    why: format!("asked for, loaded in {}", Millis(took)),
                }),
                Err(refusal) => Err(refusal.into_start_error("splice")),
            };
        }
        match sockmap::start(connections, args.debug) {
            Ok((kernel, took)) => Ok(Self {
                datapath: Datapath::Sockmap { kernel, after: args.offload_after },
                why: format!("self-test passed in {}", Millis(took)),
            }),
            Err(refusal) if wanted == args::Datapath::Auto => {
                Ok(relay(&format!("no sockmap: {refusal}")))
            }
            Err(refusal) => Err(refusal.into_start_error("sockmap")),
        }
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0.as_millis().max(1))
    }
}

impl Datapath {
    pub(crate) fn name(&self) -> Name {
        match self {
            Self::Relay { .. } => Name::Relay,
            Self::Sockmap { .. } => Name::Sockmap,
            Self::Splice { .. } => Name::Splice,
        }
    }

    /// How sockets must be made so that this datapath can take them.
    ///
    /// # Errors
    /// When the system gives no socket to try on.
    pub(crate) fn socket_options(&self) -> io::Result<SocketOptions> {
        SocketOptions::probe(match self {
            Self::Relay { .. } | Self::Splice { .. } => None,
            Self::Sockmap { .. } => Some(sockmap::SEND_BUFFER),
        })
    }

    /// Moves bytes both ways until both directions have ended or one broke.
    pub(crate) async fn carry(&self, pair: Pair, pool: &Pool) -> Report {
        match self {
            Self::Relay { dump } => relay::carry(&pair, pool, *dump).await,
            Self::Sockmap { kernel, after } => match relay::begin(&pair, pool, *after).await {
                Some(report) => report,
                // On the heap, as it is large and most connections never get here.
                None => Box::pin(sockmap::carry(kernel, &pair, pool)).await,
            },
            Self::Splice { kernel, after } => match relay::begin(&pair, pool, *after).await {
                Some(report) => report,
                None => Box::pin(splice::carry(kernel, &pair, pool, *after)).await,
            },
        }
    }
}
