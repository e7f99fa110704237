//! Which datapath carries a connection.
//!
//! Invariant: a connection that one datapath cannot take goes to the next.

use std::{net::SocketAddr, sync::Arc};

use super::{
    end::ConnectionReport,
    name::DatapathName,
    pair::Pair,
    relay::{self, buffers::BufferPool},
    sockmap, splice,
};
use crate::{io::stream::Stream, sys::privileges::Capability};

/// What moves the bytes of new connections.
#[derive(Clone)]
pub(crate) enum Datapath {
    /// In user space; with the bytes on standard output (`-p`) or without.
    Relay { dump: bool },
    /// In the kernel, by a sockmap program, once user space has made so many turns.
    Sockmap { kernel: Arc<sockmap::Kernel>, after: u32 },
    /// By the peers themselves: a program makes the packets of one connection packets of the other,
    /// once user space has made so many turns; by the next datapath if that cannot be.
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

    /// What it goes on to need when everything is loaded.
    pub(crate) fn needs(&self) -> &'static [Capability] {
        match self {
            Self::Relay { .. } => &[],
            // For buffers beyond the system's limits, and for maps before Linux 5.19.
            Self::Sockmap { .. } => &[Capability::CAP_NET_ADMIN, Capability::CAP_BPF],
            // For TCP_REPAIR, and to attach the program where new connections are to go.
            Self::Splice { .. } => &[Capability::CAP_NET_ADMIN, Capability::CAP_BPF],
        }
    }

    /// What the splice datapath has done, where it runs.
    pub(crate) fn splice_figures(&self) -> Option<splice::Figures> {
        match self {
            Self::Splice { kernel, .. } => Some(kernel.figures()),
            Self::Relay { .. } | Self::Sockmap { .. } => None,
        }
    }

    /// The largest segment that the backend of this client may be told to send, in bytes, so that it
    /// fits the client's path; `None` where it does not matter.
    pub(crate) fn segment(&self, client: &Stream) -> Option<u32> {
        match self {
            Self::Splice { .. } => splice::for_backend(client),
            Self::Relay { .. } | Self::Sockmap { .. } => None,
        }
    }

    /// The same for clients of these backends, as far as they are known when it begins to listen.
    pub(crate) fn segment_for_clients(
        &self,
        backends: impl Iterator<Item = SocketAddr>,
    ) -> Option<u32> {
        match self {
            Self::Splice { .. } => splice::for_clients(backends),
            Self::Relay { .. } | Self::Sockmap { .. } => None,
        }
    }

    /// Looks after what the kernel's programs tell, for ever.
    pub(crate) async fn dispatch(&self) {
        match self {
            Self::Relay { .. } => {}
            Self::Sockmap { kernel, .. } => kernel.dispatch().await,
            Self::Splice { kernel, next, .. } => {
                tokio::join!(kernel.dispatch(), Box::pin(next.dispatch()));
            }
        }
    }

    /// Moves bytes both ways until both directions have ended or one broke.
    pub(crate) async fn carry(&self, pair: Pair, pool: &BufferPool) -> ConnectionReport {
        let after = match self {
            Self::Relay { dump } => return relay::carry(&pair, pool, *dump).await,
            // What has arrived is delivered; there is nothing more to carry.
            _ if pair.backend.is_broken() => return relay::carry(&pair, pool, false).await,
            Self::Sockmap { after, .. } | Self::Splice { after, .. } => *after,
        };
        match relay::begin(&pair, pool, after).await {
            Some(report) => report,
            // On the heap, as it is large and most connections never get here.
            None => Box::pin(self.take_over(&pair, pool)).await,
        }
    }

    /// Has the kernel carry a pair that user space has carried so far, as far as it can.
    async fn take_over(&self, pair: &Pair, pool: &BufferPool) -> ConnectionReport {
        match self {
            Self::Relay { .. } => relay::carry(pair, pool, false).await,
            Self::Sockmap { kernel, .. } => sockmap::carry(kernel, pair, pool).await,
            Self::Splice { kernel, next, .. } => match splice::carry(kernel, pair, pool).await {
                Some(report) => report,
                None => Box::pin(next.take_over(pair, pool)).await,
            },
        }
    }
}
