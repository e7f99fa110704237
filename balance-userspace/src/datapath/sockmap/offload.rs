//! Carries a connection on the sockmap datapath: each direction alternates between the kernel
//! and user space until its source ends.
//!
//! Invariants: a byte that was passed is sent only when the target has written all that was
//! redirected before it, and a direction goes back to the kernel only when no passed byte is
//! left; so the order holds without a lock. Both directions are with user space or both with the
//! kernel, but for moments: see the head of `balance_ebpf`'s `flow.rs`.

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

use balance_ebpf::handover::{self, UserEnd};
use tokio::{select, sync::Notify, task::yield_now, time::sleep};
use tracing::warn;

use super::{
    flows::FlowRef,
    kernel::{Kernel, LIMIT, SEND_BUFFER},
    lease::Lease,
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
    },
    io::ready,
    sys,
    throttle::Throttle,
};

/// The most that a target may have outstanding when the kernel takes a flow over.
const ROOM: u32 = LIMIT / 2;

/// Buffers that one direction may move before others of the same worker get their turn.
const TURNS: u32 = 2;

/// By how much a send buffer that is too small for what was redirected is widened at a time.
const STEP: usize = 1 << 20;

/// Between two looks at something that the kernel's worker is about to do.
const MOMENT: Duration = Duration::from_millis(1);

/// Looks in vain after which a source that is gone has nothing more to give.
const MOST_LOOKS: u32 = 5_000;

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

/// Carries a pair to its end; on the relay if the maps cannot take it.
pub(crate) async fn carry(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionReport {
    match enter(kernel, pair) {
        Ok((lease, judged)) => return offload(kernel, pair, lease, judged, pool).await,
        // Not established any more: one side has ended already, or is gone.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => {
            if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
                warn!(%error, suppressed, "BPF map insert failed, connection is relayed");
            }
        }
    }
    relay::carry(pair, pool, false).await
}

/// Gives a pair its slots and puts it into the maps.
fn enter(kernel: &Arc<Kernel>, pair: &Pair) -> io::Result<(Rc<Lease>, [bool; 2])> {
    let cookies = [pair.client.cookie()?, pair.backend.cookie()?];
    let lease =
        Lease::new(kernel, cookies).ok_or_else(|| io::Error::other("all slots are taken"))?;
    let lease = Rc::new(lease);
    pair.client.hold(Rc::clone(&lease) as _);
    pair.backend.hold(Rc::clone(&lease) as _);
    let judged = kernel.insert(pair, &lease)?;
    for stream in [&pair.client, &pair.backend] {
        // One that is gone by now is about to be noticed.
        let _ = stream.set_send_buffer(SEND_BUFFER);
    }
    Ok((lease, judged))
}

async fn offload(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    lease: Rc<Lease>,
    judged: [bool; 2],
    pool: &BufferPool,
) -> ConnectionReport {
    pair.traffic.start_offload(kernel, [lease.slot(0), lease.slot(1)]);
    let relayed = [&pair.traffic.sent, &pair.traffic.rcvd];
    let way = |i: usize, direction: Direction| OneWay {
        flow: UserEnd::new(kernel.flow(lease.slot(i))),
        changed: &lease.wakers[i],
        judged: judged[i],
        direction,
        pool,
        relayed: relayed[i],
        looks: Cell::new(0),
        broken: Cell::new(None),
    };
    let both = Both { ways: [way(0, pair.up()), way(1, pair.down())] };
    let end = pair.run(pin!(both.run(0)), pin!(both.run(1))).await;
    pair.traffic.end_offload();
    ConnectionReport { datapath: DatapathName::Sockmap, end }
}

/// The two directions of a connection: 0 from client to backend, 1 back.
struct Both<'a> {
    ways: [OneWay<'a>; 2],
}

/// Where a direction goes on.
enum Next {
    Kernel,
    User,
    End,
}

impl Both<'_> {
    async fn run(&self, i: usize) -> Result<(), SideError> {
        let way = &self.ways[i];
        // One poll for the end of the source, kept over all stretches in the kernel.
        let mut ended = pin!(ready::ended(&way.direction.source));
        while let Next::Kernel = self.in_user_space(i).await? {
            if let Next::End = way.in_kernel(ended.as_mut()).await? {
                // What is still in the queue is judged by the reading of it.
                self.read_to_end(i).await?;
                break;
            }
        }
        way.settle().await?;
        way.sound()?;
        way.flow.retire();
        if let Some(broken) = way.broken.take() {
            return Err(broken);
        }
        way.direction.end_target();
        Ok(())
    }

    /// Moves what the program passes up, until nothing is left and the kernel can take over.
    async fn in_user_space(&self, i: usize) -> Result<Next, SideError> {
        let way = &self.ways[i];
        for turn in 1.. {
            way.sound()?;
            if way.judged && way.flow.is_in_kernel() {
                return Ok(Next::Kernel);
            }
            // What was redirected to our source must be out of its way: what it passes up
            // queues behind that.
            self.clear_source(i).await?;
            way.settle().await?;
            if self.promote(i)? {
                return Ok(Next::Kernel);
            }
            match way.receive() {
                Received::Bytes(buffer, n) => way.relay(&buffer[..n]).await?,
                Received::Nothing if way.all_passed_are_relayed() => way.wait().await?,
                Received::End if way.all_passed_are_relayed() => return Ok(Next::End),
                Received::Nothing | Received::End => way.wait_for_passed().await?,
            }
            if turn % TURNS == 0 {
                yield_now().await;
            }
        }
        unreachable!("the turns do not end")
    }

    /// The source has ended: moves what is left of it. The flow stays where it is.
    async fn read_to_end(&self, i: usize) -> Result<(), SideError> {
        let way = &self.ways[i];
        loop {
            way.sound()?;
            self.clear_source(i).await?;
            match way.receive() {
                Received::Bytes(buffer, n) => way.relay(&buffer[..n]).await?,
                Received::End if way.all_passed_are_relayed() => return Ok(()),
                Received::End | Received::Nothing => way.wait_for_passed().await?,
            }
        }
    }

    /// Waits until what was redirected to the source of a direction is out of the way of what the
    /// source passes up. What a source that has broken has passed up is read all the same.
    async fn clear_source(&self, i: usize) -> Result<(), SideError> {
        match self.ways[1 - i].settle().await {
            Err(broken) if broken.side != self.ways[i].direction.from() => Err(broken),
            _ => Ok(()),
        }
    }

    /// Hands a flow to the kernel if nothing is left to relay, and the other one with it.
    fn promote(&self, i: usize) -> Result<bool, SideError> {
        let flows = [&self.ways[0].flow, &self.ways[1].flow];
        let gone = handover::promote(flows, i, |j| self.ways[j].room())?;
        if gone[1 - i] {
            // It waits for bytes to be passed, which will not come.
            self.ways[1 - i].changed.notify_one();
        }
        Ok(gone[i])
    }
}

struct OneWay<'a> {
    flow: UserEnd<FlowRef<'a>>,
    /// Told when the flow has changed hands, or has a fault.
    changed: &'a Notify,
    /// Whether the source is in the map with the program.
    judged: bool,
    direction: Direction,
    pool: &'a BufferPool,
    /// Bytes that user space has moved in all.
    relayed: &'a AtomicU64,
    /// Looks in vain at a source that is gone, since something was relayed.
    looks: Cell<u32>,
    /// How the source broke: told when all that it had sent before has been written.
    broken: Cell<Option<SideError>>,
}

impl OneWay<'_> {
    /// Takes what the source has. A break is an end that is not passed on as one.
    fn receive(&self) -> Received {
        pump::receive(&self.direction, self.pool).unwrap_or_else(|broken| {
            self.broken.set(Some(broken));
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

    /// Waits in user space until there is something to do.
    async fn wait(&self) -> Result<(), SideError> {
        select! {
            biased;
            () = self.changed.notified() => Ok(()),
            result = pump::readable(&self.direction) => result,
        }
    }

    /// False while the kernel still holds passed bytes that it has not made readable; reading
    /// then says end of stream too early (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg_parser).
    fn all_passed_are_relayed(&self) -> bool {
        !self.judged || self.flow.has_relayed_all()
    }

    async fn wait_for_passed(&self) -> Result<(), SideError> {
        let state =
            sys::send_state(&*self.direction.source).map_err(|e| self.direction.source_error(e))?;
        // A reset is told by the reading. A source that has got its end after ours was acknowledged
        // closes at once (net/ipv4/tcp_input.c, tcp_fin), with what it has passed yet to come, as late as
        // the kernel's worker gets to run.
        if state.closed {
            if self.looks.get() == MOST_LOOKS {
                return Err(self.direction.source_error(io::ErrorKind::ConnectionReset.into()));
            }
            self.looks.set(self.looks.get() + 1);
        }
        sleep(MOMENT).await;
        Ok(())
    }

    /// Fails if the program had to give the flow up.
    fn sound(&self) -> Result<(), SideError> {
        match self.flow.words.fault() {
            None => Ok(()),
            Some(fault) => Err(self.direction.source_error(io::Error::other(fault))),
        }
    }

    /// Sends bytes that were passed, behind all that was redirected before them.
    async fn relay(&self, bytes: &[u8]) -> Result<(), SideError> {
        self.settle().await?;
        pump::send_all(&self.direction, bytes).await?;
        let n = bytes.len() as u64;
        self.relayed.fetch_add(n, Relaxed);
        self.flow.relayed(n);
        self.looks.set(0);
        Ok(())
    }

    /// What the target has written, if it can take what the kernel may redirect.
    fn room(&self) -> Result<Option<u64>, SideError> {
        let target = &*self.direction.target;
        let broke = |e| self.direction.target_error(e);
        if sys::send_memory(target).map_err(broke)? > ROOM {
            return Ok(None);
        }
        let state = sys::send_state(target).map_err(broke)?;
        Ok((!state.closed).then_some(state.written()))
    }

    /// Waits until the target has written all that was redirected to it. If its send buffer is
    /// too small for that, because small segments cost more than they carry, it is widened.
    async fn settle(&self) -> Result<(), SideError> {
        let broke = |e| self.direction.target_error(e);
        let mut timer: Option<StallTimer> = None;
        for tries in 1u32.. {
            let Some(redirected) = self.flow.unsettled() else { break };
            let target = &*self.direction.target;
            let state = sys::send_state(target).map_err(broke)?;
            if self.flow.settle(redirected, state.written()) {
                break;
            }
            if state.closed {
                return Err(broke(io::ErrorKind::ConnectionReset.into()));
            }
            // The kernel's worker is about to write it.
            if tries < 16 {
                yield_now().await;
                continue;
            }
            sleep(MOMENT).await;
            // The target may never take it, and the source is not read before.
            if let Err(broken) = pump::check_source(&self.direction) {
                let now = Instant::now();
                let timer = timer.get_or_insert_with(|| StallTimer::new(state.written(), now));
                if timer.has_stalled(state.written(), now) {
                    return Err(broken);
                }
            }
            let size = target.send_buffer_size().map_err(broke)?;
            if sys::send_memory(target).map_err(broke)? as usize >= size {
                target.widen_send_buffer(STEP).map_err(broke)?;
            }
        }
        Ok(())
    }
}
