//! Carries a connection on the sockmap datapath: each direction alternates between the kernel
//! and user space until its source ends.
//!
//! Invariant: a byte that was passed is sent only when the target has written all that was
//! redirected before it, and a direction goes back to the kernel only when no passed byte is
//! left; so the order holds without a lock.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{select, sync::Notify, task::yield_now, time::sleep};
use tracing::warn;

use super::{LIMIT, flows::FlowRef, kernel::Kernel, slots::Lease};
use crate::{
    datapath::{
        Name, Pool,
        pair::{Broken, Direction, Pair, Report},
        pump::{self, Received},
        relay,
    },
    ready, sys,
    throttle::Throttle,
};

/// The most that a target may have outstanding when the kernel takes a flow over.
const ROOM: u32 = LIMIT / 2;

/// Between two looks at something that the kernel's worker is about to do.
const MOMENT: Duration = Duration::from_millis(1);

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

/// Carries a pair to its end; on the relay if the maps cannot take it.
pub(crate) async fn carry(kernel: &Arc<Kernel>, pair: Pair, pool: &Pool) -> Report {
    match enter(kernel, &pair) {
        Ok((lease, judged)) => return offload(kernel, pair, lease, judged, pool).await,
        // Not established any more: one side has ended already, or is gone.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => {
            if let Some(held) = SHORTAGE.pass(Instant::now()) {
                warn!(%error, held, "the kernel's maps do not take a connection, it is relayed");
            }
        }
    }
    relay::carry(pair, pool).await
}

/// Gives a pair its slots and puts it into the maps.
fn enter(kernel: &Arc<Kernel>, pair: &Pair) -> io::Result<(Rc<Lease>, [bool; 2])> {
    let cookies = [pair.client.cookie()?, pair.backend.cookie()?];
    let lease =
        Lease::new(kernel, cookies).ok_or_else(|| io::Error::other("all slots are taken"))?;
    let lease = Rc::new(lease);
    pair.client.hold(Rc::clone(&lease));
    pair.backend.hold(Rc::clone(&lease));
    let judged = kernel.insert(pair, &lease)?;
    Ok((lease, judged))
}

async fn offload(
    kernel: &Kernel,
    pair: Pair,
    lease: Rc<Lease>,
    judged: [bool; 2],
    pool: &Pool,
) -> Report {
    let way = |i: usize, direction: Direction| OneWay {
        flow: kernel.flow(lease.slot(i)),
        taken_back: &lease.wakers[i],
        judged: judged[i],
        direction,
        pool,
        relayed: Cell::new(0),
        since: Cell::new(0),
        account: Cell::new(Account::default()),
    };
    let (up, down) = (way(0, pair.up()), way(1, pair.down()));
    let end = pair.clone().run(up.run(), down.run()).await;
    kernel.count(up.flow.redirected() + down.flow.redirected());
    Report { datapath: Name::Sockmap, sent: up.moved(), rcvd: down.moved(), end }
}

/// How much of what the target has written is whose.
#[derive(Clone, Copy, Default)]
struct Account {
    /// What the target had written when nothing had been redirected, plus all that user space
    /// has sent since it last had everything in order.
    base: u64,
    /// `redirected` up to which the target is known to have written everything.
    settled: u64,
}

struct OneWay<'a> {
    flow: FlowRef<'a>,
    /// Told when the program has handed the flow over.
    taken_back: &'a Notify,
    /// Whether the source is in the map with the program.
    judged: bool,
    direction: Direction,
    pool: &'a Pool,
    /// Bytes that user space has moved in all.
    relayed: Cell<u64>,
    /// Those of them since the flow last came to user space: to compare with those passed.
    since: Cell<u64>,
    account: Cell<Account>,
}

/// Where a direction goes on.
enum Next {
    Kernel,
    User,
    End,
}

impl OneWay<'_> {
    /// Bytes moved so far, by whomever.
    fn moved(&self) -> u64 {
        self.flow.redirected() + self.relayed.get()
    }

    async fn run(&self) -> Result<(), Broken> {
        // One poll for the end of the source, kept over all stretches in the kernel.
        let mut ended = pin!(ready::ended(&self.direction.source));
        while let Next::Kernel = self.in_user_space().await? {
            if let Next::End = self.in_kernel(ended.as_mut()).await? {
                // What is still in the queue is judged by the reading of it.
                self.read_to_end().await?;
                break;
            }
        }
        self.settle().await?;
        self.sound()?;
        self.direction.end_target();
        Ok(())
    }

    /// Waits while the kernel moves the bytes.
    async fn in_kernel(
        &self,
        ended: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<Next, Broken> {
        select! {
            biased;
            () = self.taken_back.notified() => Ok(Next::User),
            result = ended => result.map(|()| Next::End).map_err(|e| self.direction.source_broke(e)),
        }
    }

    /// Moves what the program passes up, until nothing is left and the kernel can take over.
    async fn in_user_space(&self) -> Result<Next, Broken> {
        loop {
            self.sound()?;
            if self.flow.passed().is_none() || self.promote()? {
                return Ok(Next::Kernel);
            }
            match pump::receive(&self.direction, self.pool)? {
                Received::Bytes(buffer, n) => self.relay(&buffer[..n]).await?,
                Received::Nothing => pump::readable(&self.direction).await?,
                Received::End if self.all_passed_are_relayed() => return Ok(Next::End),
                Received::End => self.wait_for_passed().await?,
            }
        }
    }

    /// The source has ended: moves what is left of it. The flow stays where it is.
    async fn read_to_end(&self) -> Result<(), Broken> {
        loop {
            match pump::receive(&self.direction, self.pool)? {
                Received::Bytes(buffer, n) => self.relay(&buffer[..n]).await?,
                Received::End if self.all_passed_are_relayed() => return Ok(()),
                Received::End | Received::Nothing => self.wait_for_passed().await?,
            }
        }
    }

    /// False while the kernel still holds passed bytes that it has not made readable; reading
    /// then says end of stream too early (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg_parser).
    fn all_passed_are_relayed(&self) -> bool {
        !self.judged || self.flow.passed().unwrap_or(0) == self.since.get()
    }

    async fn wait_for_passed(&self) -> Result<(), Broken> {
        let state =
            sys::send_state(&*self.direction.source).map_err(|e| self.direction.source_broke(e))?;
        if state.closed {
            return Err(self.direction.source_broke(io::ErrorKind::ConnectionReset.into()));
        }
        sleep(MOMENT).await;
        Ok(())
    }

    /// Fails if the program had to give the flow up.
    fn sound(&self) -> Result<(), Broken> {
        match self.flow.fault() {
            None => Ok(()),
            Some(fault) => Err(self.direction.source_broke(io::Error::other(fault))),
        }
    }

    /// Sends bytes that were passed, behind all that was redirected before them.
    async fn relay(&self, bytes: &[u8]) -> Result<(), Broken> {
        self.settle().await?;
        pump::send_all(&self.direction.target, bytes)
            .await
            .map_err(|e| self.direction.target_broke(e))?;
        let n = bytes.len() as u64;
        self.relayed.set(self.relayed.get() + n);
        self.since.set(self.since.get() + n);
        let account = self.account.get();
        self.account.set(Account { base: account.base + n, ..account });
        Ok(())
    }

    /// Hands the flow to the kernel if every byte that was passed has been relayed and the
    /// target has room.
    fn promote(&self) -> Result<bool, Broken> {
        if !self.judged || self.flow.passed() != Some(self.since.get()) {
            return Ok(false);
        }
        let state =
            sys::send_state(&*self.direction.target).map_err(|e| self.direction.target_broke(e))?;
        let Ok(unacked @ ..=ROOM) = u32::try_from(state.unacked) else {
            return Ok(false);
        };
        if state.closed {
            return Ok(false);
        }
        let redirected = self.flow.redirected();
        let base = state.written().wrapping_sub(redirected);
        self.account.set(Account { base, settled: redirected });
        let promoted = self.flow.promote(self.since.get(), base, unacked);
        if promoted {
            self.since.set(0);
        }
        Ok(promoted)
    }

    /// Waits until the target has written all that was redirected to it.
    async fn settle(&self) -> Result<(), Broken> {
        let mut tries = 0u32;
        loop {
            let redirected = self.flow.redirected();
            let account = self.account.get();
            if account.settled == redirected {
                return Ok(());
            }
            let state = sys::send_state(&*self.direction.target)
                .map_err(|e| self.direction.target_broke(e))?;
            if state.written().wrapping_sub(account.base) >= redirected {
                self.account.set(Account { settled: redirected, ..account });
                return Ok(());
            }
            if state.closed {
                return Err(self.direction.target_broke(io::ErrorKind::ConnectionReset.into()));
            }
            // The kernel's worker is about to write it: soon, as the send buffer has room.
            tries += 1;
            if tries < 16 { yield_now().await } else { sleep(MOMENT).await }
        }
    }
}
