//! Dispatches a connection to the datapath that carries it, and answers for all datapaths.
//!
//! Invariant: a connection that one datapath cannot take goes to the next.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc};

use super::{
    counter::Counter,
    end::ConnectionReport,
    name::DatapathName,
    pair::Pair,
    relay::{self, buffers::BufferPool},
    sockmap, splice,
};
use crate::{cli::args::Args, io::stream::Stream, sys::privileges::Capability};

/// The datapath of new connections.
#[derive(Clone)]
pub(crate) enum Datapath {
    /// User space moves the bytes. With `dump` it also writes them to standard output (`-p`).
    Relay { dump: bool },
    /// A BPF program redirects the bytes between sockets inside the kernel. User space moves the
    /// first `after` buffers of a connection.
    Sockmap { kernel: Arc<sockmap::Kernel>, after: u32 },
    /// A BPF program rewrites the packets of one connection into packets of the other, so that the
    /// two peers talk to each other directly. User space moves the first `after` buffers of a
    /// connection. A connection that cannot be spliced goes to `next`.
    Splice { kernel: Arc<splice::Kernel>, after: u32, next: Box<Datapath> },
}

impl Datapath {
    pub(crate) fn name(&self) -> DatapathName {
        match self {
            Self::Relay { .. } => DatapathName::Relay,
            Self::Sockmap { .. } => DatapathName::Sockmap,
            Self::Splice { .. } => DatapathName::Splice,
        }
    }

    /// The same datapath with the options of an instance (`-p`, `--offload-after`).
    pub(crate) fn of_instance(&self, args: &Args) -> Self {
        let after = args.offload_after;
        match self {
            _ if args.dump => Self::Relay { dump: true },
            Self::Relay { .. } => Self::Relay { dump: false },
            Self::Sockmap { kernel, .. } => Self::Sockmap { kernel: Arc::clone(kernel), after },
            Self::Splice { kernel, next, .. } => {
                let (kernel, next) = (Arc::clone(kernel), Box::new(next.of_instance(args)));
                Self::Splice { kernel, after, next }
            }
        }
    }

    /// The capabilities that the datapath still needs when everything is loaded.
    pub(crate) fn required_capabilities(&self) -> &'static [Capability] {
        match self {
            Self::Relay { .. } => &[],
            // For socket buffers beyond the system's limits, and for map updates before Linux 5.19.
            Self::Sockmap { .. } => &[Capability::CAP_NET_ADMIN, Capability::CAP_BPF],
            // For TCP_REPAIR, and to attach the program to the interfaces of new connections.
            Self::Splice { .. } => &[Capability::CAP_NET_ADMIN, Capability::CAP_BPF],
        }
    }

    /// The counters of the datapath since the start, for `stats`, in the order in which they are
    /// shown. Empty for a datapath that counts nothing beside [`Traffic`](super::Traffic).
    pub(crate) fn counters(&self) -> Vec<Counter> {
        match self {
            Self::Splice { kernel, .. } => splice_counters(kernel.figures()),
            Self::Relay { .. } | Self::Sockmap { .. } => Vec::new(),
        }
    }

    /// The maximum segment size, in bytes, to announce to the server of this client, so that the
    /// server's segments fit the client's path. `None`: the kernel's own choice is right.
    pub(crate) fn mss_for_server(&self, client: &Stream) -> Option<u32> {
        match self {
            Self::Splice { .. } => splice::for_backend(client),
            Self::Relay { .. } | Self::Sockmap { .. } => None,
        }
    }

    /// The maximum segment size, in bytes, to announce to all clients, so that their segments fit
    /// the paths to these servers. `None`: the kernel's own choice is right.
    pub(crate) fn mss_for_clients(&self, servers: impl Iterator<Item = SocketAddr>) -> Option<u32> {
        match self {
            Self::Splice { .. } => splice::for_clients(servers),
            Self::Relay { .. } | Self::Sockmap { .. } => None,
        }
    }

    /// Handles the events of the BPF programs. Never returns.
    pub(crate) async fn handle_events(&self) -> Infallible {
        match self {
            Self::Relay { .. } => pending().await,
            Self::Sockmap { kernel, .. } => kernel.handle_events().await,
            Self::Splice { kernel, next, .. } => {
                tokio::join!(kernel.handle_events(), Box::pin(next.handle_events())).0
            }
        }
    }

    /// Moves bytes both ways until both directions have ended or one side has failed.
    pub(crate) async fn carry(&self, pair: Pair, pool: &BufferPool) -> ConnectionReport {
        let after = match self {
            Self::Relay { dump } => return relay::carry(&pair, pool, *dump).await,
            // The server has failed already: only the bytes that have arrived are left to deliver.
            _ if pair.backend.is_broken() => return relay::carry(&pair, pool, false).await,
            Self::Sockmap { after, .. } | Self::Splice { after, .. } => *after,
        };
        match relay::carry_first(&pair, pool, after).await {
            Some(report) => report,
            // Boxed: the future is large, and most connections never get here.
            None => Box::pin(self.offload(&pair, pool)).await,
        }
    }

    /// Moves a pair from user space to the kernel, as far as the kernel takes it.
    async fn offload(&self, pair: &Pair, pool: &BufferPool) -> ConnectionReport {
        match self {
            Self::Relay { .. } => relay::carry(pair, pool, false).await,
            Self::Sockmap { kernel, .. } => sockmap::carry(kernel, pair, pool).await,
            Self::Splice { kernel, next, .. } => match splice::carry(kernel, pair, pool).await {
                Some(report) => report,
                None => Box::pin(next.offload(pair, pool)).await,
            },
        }
    }
}

fn splice_counters(figures: splice::Figures) -> Vec<Counter> {
    let counters = [
        ("spliced now", figures.current),
        ("spliced", figures.total),
        ("packets spliced", figures.packets),
        ("packets dropped", figures.dropped),
        ("sack blocks translated", figures.sacks),
        ("acks held back", figures.clamped),
    ];
    let counters = counters.map(|(name, value)| Counter { name, value, reason: None });
    let refused = figures.refused.into_iter().map(|(reason, value)| Counter {
        name: "not spliced",
        value,
        reason: Some(reason),
    });
    counters.into_iter().chain(refused).collect()
}
