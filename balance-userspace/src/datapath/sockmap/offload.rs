//! Carries a connection on the sockmap datapath: each direction alternates between the kernel and
//! user space until its source ends.
//!
//! Invariants: user space sends a passed byte only after the target has written every byte that was
//! redirected before it. A direction returns to the kernel only when user space holds no passed
//! byte. So the order of bytes holds without a lock. Except for moments, both directions are with
//! user space or both are with the kernel: see the head of `balance_ebpf`'s `flow.rs`.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balance_ebpf::sockmap::handover::{self, UserEnd};
use tokio::{select, sync::Notify, task::yield_now, time::sleep};
use tracing::warn;

use super::{
    flows::FlowRef,
    kernel::{Kernel, LIMIT, SEND_BUFFER},
    lease::SlotLease,
};
use crate::{
    datapath::{
        direction::Direction,
        end::{ConnectionReport, SideError},
        name::DatapathName,
        pair::Pair,
        relay::{
            self,
            buffers::BufferPool,
            pump::{self, Received},
            stall::StallTimer,
        },
        side::{PerSide, Side},
    },
    io::ready,
    sys,
    throttle::Throttle,
};

/// The most memory that a target may have outstanding when the kernel takes a flow over, in bytes.
const PROMOTE_LIMIT: u32 = LIMIT / 2;

/// Buffers that a direction may move before other connections of the worker run.
const BUFFERS_PER_TURN: u32 = 2;

/// The number of bytes by which a send buffer grows that is too small for the redirected packets.
const SEND_BUFFER_STEP: usize = 1 << 20;

/// The pause between two polls of a state that a kernel worker is about to change.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The number of polls without a byte after which a closed source counts as empty.
const MAX_EMPTY_POLLS: u32 = 5_000;

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

/// Carries a pair to its end. The relay carries it if the maps cannot take it.
pub(crate) async fn carry(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionReport {
    match insert(kernel, pair) {
        Ok((lease, attached)) => return offload(kernel, pair, lease, attached, pool).await,
        // A socket is not established any more: one side has ended or failed.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => {
            if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
                warn!(%error, suppressed, "BPF map insert failed, connection is relayed");
            }
        }
    }
    relay::carry(pair, pool, false).await
}

/// Takes slots for a pair and inserts its sockets into the maps. Returns for each direction whether
/// the program is attached to its source.
fn insert(kernel: &Arc<Kernel>, pair: &Pair) -> io::Result<(Rc<SlotLease>, PerSide<bool>)> {
    let cookies = PerSide::try_from_fn(|side| pair.stream(side).cookie())?;
    let lease =
        SlotLease::new(kernel, cookies).ok_or_else(|| io::Error::other("all slots are taken"))?;
    let lease = Rc::new(lease);
    pair.client.hold(Rc::clone(&lease) as _);
    pair.backend.hold(Rc::clone(&lease) as _);
    let attached = kernel.insert(pair, &lease)?;
    for side in Side::BOTH {
        // An error means that the socket has failed. The next read reports that.
        let _ = pair.stream(side).set_send_buffer(SEND_BUFFER);
    }
    Ok((lease, attached))
}

async fn offload(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    lease: Rc<SlotLease>,
    attached: PerSide<bool>,
    pool: &BufferPool,
) -> ConnectionReport {
    pair.traffic.start_offload(kernel, PerSide::from_fn(|side| lease.slot(side)));
    let moved = PerSide::new(&pair.traffic.sent, &pair.traffic.rcvd);
    let directions = PerSide::from_fn(|from| FlowDirection {
        flow: UserEnd::new(kernel.flow(lease.slot(from))),
        changed: &lease.wakers[from],
        is_attached: attached[from],
        direction: pair.direction(from),
        pool,
        moved: moved[from],
        empty_polls: Cell::new(0),
        source_error: Cell::new(None),
    });
    let both = FlowPair { directions };
    let end = pair.run(pin!(both.run(Side::Client)), pin!(both.run(Side::Backend))).await;
    pair.traffic.end_offload();
    ConnectionReport { datapath: DatapathName::Sockmap, end }
}

/// The two directions of a connection, by the side that each comes from.
struct FlowPair<'a> {
    directions: PerSide<FlowDirection<'a>>,
}

/// Where a direction continues.
enum Next {
    Kernel,
    User,
    End,
}

impl FlowPair<'_> {
    async fn run(&self, from: Side) -> Result<(), SideError> {
        let this = &self.directions[from];
        // One poll for the FIN of the source, for all periods in the kernel.
        let mut ended = pin!(ready::ended(&this.direction.source));
        while let Next::Kernel = self.in_user_space(from).await? {
            if let Next::End = this.in_kernel(ended.as_mut()).await? {
                // The receive queue may hold bytes in front of the FIN.
                self.read_to_end(from).await?;
                break;
            }
        }
        this.wait_written().await?;
        this.check_fault()?;
        this.flow.retire();
        if let Some(error) = this.source_error.take() {
            return Err(error);
        }
        this.direction.end_target();
        Ok(())
    }

    /// Moves the bytes that the program passes to user space, until none is left and the kernel can
    /// take the direction over.
    async fn in_user_space(&self, from: Side) -> Result<Next, SideError> {
        let this = &self.directions[from];
        let mut buffers = 0u32;
        loop {
            this.check_fault()?;
            if this.is_attached && this.flow.is_in_kernel() {
                return Ok(Next::Kernel);
            }
            // Packets that the source passes up queue behind packets that were redirected to the
            // source and are not written yet.
            self.clear_source(from).await?;
            this.wait_written().await?;
            if self.promote(from)? {
                return Ok(Next::Kernel);
            }
            match this.receive() {
                Received::Bytes(buffer, n) => this.relay(&buffer[..n]).await?,
                Received::Nothing if this.has_relayed_all_passed() => this.wait().await?,
                Received::End if this.has_relayed_all_passed() => return Ok(Next::End),
                Received::Nothing | Received::End => this.wait_for_passed().await?,
            }
            buffers = buffers.wrapping_add(1);
            if buffers.is_multiple_of(BUFFERS_PER_TURN) {
                yield_now().await;
            }
        }
    }

    /// Moves the rest of a source that has sent FIN. The flow stays where it is.
    async fn read_to_end(&self, from: Side) -> Result<(), SideError> {
        let this = &self.directions[from];
        loop {
            this.check_fault()?;
            self.clear_source(from).await?;
            match this.receive() {
                Received::Bytes(buffer, n) => this.relay(&buffer[..n]).await?,
                Received::End if this.has_relayed_all_passed() => return Ok(()),
                Received::End | Received::Nothing => this.wait_for_passed().await?,
            }
        }
    }

    /// Waits until the source of a direction has written every byte that was redirected to it, so
    /// that its passed packets do not queue behind redirected ones. If the source has failed, the
    /// bytes that it has passed are still read.
    async fn clear_source(&self, from: Side) -> Result<(), SideError> {
        match self.directions[!from].wait_written().await {
            Err(error) if error.side != from => Err(error),
            _ => Ok(()),
        }
    }

    /// Hands a flow to the kernel if no byte is left to relay, and the flow of the other direction
    /// with it. Returns whether the flow is with the kernel.
    fn promote(&self, from: Side) -> Result<bool, SideError> {
        let flows = self.directions.as_ref().map(|direction| &direction.flow);
        let written = |side: Side| self.directions[side].written_if_room();
        let promoted = handover::promote(flows, from, written)?;
        if promoted[!from] {
            // The other direction waits for passed bytes, which will not come.
            self.directions[!from].changed.notify_one();
        }
        Ok(promoted[from])
    }
}

struct FlowDirection<'a> {
    flow: UserEnd<FlowRef<'a>>,
    /// Notified when the kernel has returned the flow, or has found a fault in it.
    changed: &'a Notify,
    /// The source is in the map with the program.
    is_attached: bool,
    direction: Direction,
    pool: &'a BufferPool,
    /// Counts the bytes that user space moves.
    moved: &'a AtomicU64,
    /// Polls of a closed source without a byte, since the last byte.
    empty_polls: Cell<u32>,
    /// The error of the source. Reported after every byte that the source had sent was written.
    source_error: Cell<Option<SideError>>,
}

impl FlowDirection<'_> {
    /// Reads from the source. An error of the source counts as an end that is not passed on.
    fn receive(&self) -> Received {
        pump::receive(&self.direction, self.pool).unwrap_or_else(|error| {
            self.source_error.set(Some(error));
            Received::End
        })
    }

    /// Waits while the kernel moves the bytes.
    async fn in_kernel(
        &self,
        ended: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<Next, SideError> {
        select! {
            biased;
            () = self.changed.notified() => Ok(Next::User),
            result = ended => result.map(|()| Next::End).map_err(|e| self.direction.source_error(e)),
        }
    }

    /// Waits in user space for bytes, a FIN or a change of the flow.
    async fn wait(&self) -> Result<(), SideError> {
        select! {
            biased;
            () = self.changed.notified() => Ok(()),
            result = pump::readable(&self.direction) => result,
        }
    }

    /// False while the kernel holds passed bytes that it has not made readable. A read then reports
    /// the end of the stream too early (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg_parser).
    fn has_relayed_all_passed(&self) -> bool {
        !self.is_attached || self.flow.has_relayed_all()
    }

    /// Pauses until passed bytes may have become readable.
    async fn wait_for_passed(&self) -> Result<(), SideError> {
        let state =
            sys::send_state(&*self.direction.source).map_err(|e| self.direction.source_error(e))?;
        // A read reports a reset. A source whose FIN arrives after ours was acknowledged closes at
        // once (net/ipv4/tcp_input.c, tcp_fin), and its passed bytes become readable when the
        // kernel's worker runs.
        if state.closed {
            if self.empty_polls.get() == MAX_EMPTY_POLLS {
                return Err(self.direction.source_error(io::ErrorKind::ConnectionReset.into()));
            }
            self.empty_polls.set(self.empty_polls.get() + 1);
        }
        sleep(POLL_INTERVAL).await;
        Ok(())
    }

    /// Fails if the program has found a fault in the flow.
    fn check_fault(&self) -> Result<(), SideError> {
        match self.flow.words.fault() {
            None => Ok(()),
            Some(fault) => Err(self.direction.source_error(io::Error::other(fault))),
        }
    }

    /// Sends passed bytes, after every byte that was redirected before them.
    async fn relay(&self, bytes: &[u8]) -> Result<(), SideError> {
        self.wait_written().await?;
        pump::send_all(&self.direction, bytes).await?;
        let n = bytes.len() as u64;
        self.moved.fetch_add(n, Relaxed);
        self.flow.relayed(n);
        self.empty_polls.set(0);
        Ok(())
    }

    /// The number of bytes that the target has written; `None` if it has no room for the packets
    /// that the kernel would redirect to it.
    fn written_if_room(&self) -> Result<Option<u64>, SideError> {
        let target = &*self.direction.target;
        let target_error = |e| self.direction.target_error(e);
        if sys::send_memory(target).map_err(target_error)? > PROMOTE_LIMIT {
            return Ok(None);
        }
        let state = sys::send_state(target).map_err(target_error)?;
        Ok((!state.closed).then_some(state.written()))
    }

    /// Waits until the target has written every byte that was redirected to it. Enlarges the target's
    /// send buffer if it is too small for the packets, because small segments cost more memory than
    /// they carry bytes.
    async fn wait_written(&self) -> Result<(), SideError> {
        let target_error = |e| self.direction.target_error(e);
        let mut timer: Option<StallTimer> = None;
        for tries in 1u32.. {
            let Some(redirected) = self.flow.unsettled() else { break };
            let target = &*self.direction.target;
            let state = sys::send_state(target).map_err(target_error)?;
            if self.flow.settle(redirected, state.written()) {
                break;
            }
            if state.closed {
                return Err(target_error(io::ErrorKind::ConnectionReset.into()));
            }
            // The kernel's worker is about to write the packets.
            if tries < 16 {
                yield_now().await;
                continue;
            }
            sleep(POLL_INTERVAL).await;
            // The target may never accept the bytes, and until then the source is not read. So
            // check the source for errors.
            if let Err(error) = pump::check_source(&self.direction) {
                let now = Instant::now();
                let timer = timer.get_or_insert_with(|| StallTimer::new(state.written(), now));
                if timer.has_stalled(state.written(), now) {
                    return Err(error);
                }
            }
            let size = target.send_buffer_size().map_err(target_error)?;
            if sys::send_memory(target).map_err(target_error)? as usize >= size {
                target.enlarge_send_buffer(SEND_BUFFER_STEP).map_err(target_error)?;
            }
        }
        Ok(())
    }
}
