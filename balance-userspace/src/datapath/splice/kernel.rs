//! The loaded splice program, its only owner, and all access to its maps.
//!
//! Invariant: of two connections with the same addresses, packets belong to the newer one.

use std::{
    collections::{HashMap as Live, VecDeque},
    convert::Infallible,
    io, mem,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    maps::{HashMap, MapData, RingBuf},
    programs::SchedClassifier,
};
use balance_ebpf::{
    Shared as _, names,
    splice::{Globals, LOOPBACK, PacketTuple, Phase, Splice, SpliceWords, ending},
};
use tokio::{sync::Notify, time::sleep};
use tracing::{error, warn};

use super::{
    attach::Interfaces,
    ineligible::{Ineligible, IneligibleCounts},
    legacy_tc::FilterHandle,
    rcu::GracePeriods,
    routes::RouteChanges,
    slot::Slot,
    tuple::Tuple,
    words::{global_words, splice_words},
};
use crate::{
    datapath::{
        name::DatapathName,
        offload::{
            mapped::Mapped,
            object::{LoadError, Object, map_array, map_error, on_readable, program, take},
            program_log::ProgramLog,
            slots::Slots,
        },
        side::{PerSide, Side},
        traffic::OffloadCounters,
    },
    sys,
    throttle::Throttle,
};

/// A tuple as a key of the map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct TupleKey(PacketTuple);

// SAFETY: `PacketTuple` is plain integers without padding.
unsafe impl aya::Pod for TupleKey {}

/// The kernel's side of the splice datapath.
pub(crate) struct Kernel {
    splices: Mapped<SpliceWords>,
    globals: Mapped<Globals>,
    entries: Mutex<Entries>,
    endings: Mutex<RingBuf<MapData>>,
    lingering: Mutex<VecDeque<(Instant, Slot)>>,
    slots: Slots,
    log: ProgramLog,
    interfaces: Interfaces,
    pub(super) grace_periods: GracePeriods,
    ineligible: IneligibleCounts,
    /// Figures of the connections that have ended.
    past: Mutex<Figures>,
}

/// The slots by which the program finds packets.
struct Entries {
    /// From the tuple of an arriving packet to twice the slot, plus the side.
    tuples: HashMap<MapData, TupleKey, u32>,
    /// The tuples of each slot in use.
    live: Live<u32, PerSide<Tuple>>,
}

/// What the datapath has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Connections that are spliced now.
    pub(crate) current: u64,
    /// Connections that were spliced so far.
    pub(crate) total: u64,
    /// Connections that were not spliced, by reason.
    pub(crate) refused: Vec<(String, u64)>,
    /// Forwarded packets.
    pub(crate) packets: u64,
    /// Translated blocks of selective acknowledgements.
    pub(crate) sacks: u64,
    /// Acknowledgements that were clamped to the numbers of the local sockets.
    pub(crate) clamped: u64,
    /// Packets that were dropped because they cannot be forwarded.
    pub(crate) dropped: u64,
}

impl Figures {
    fn add(&mut self, splice: &Splice) {
        for (_, direction) in splice.directions.iter() {
            self.packets += direction.packets;
            self.sacks += u64::from(direction.sack_blocks);
            self.clamped += u64::from(direction.clamped_acks);
            self.dropped += u64::from(direction.dropped);
        }
    }
}

/// How long late packets of a connection that has ended are still forwarded. A peer whose last
/// packet was lost sends it again after 200 ms, then after twice as long, and so on.
const LINGER: Duration = Duration::from_secs(3);

/// Interval of the check for lost events.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Time in which route changes are collected before they are processed together.
const ROUTE_CHANGE_DELAY: Duration = Duration::from_millis(50);

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

impl Kernel {
    /// Loads the object with room for `connections`, and attaches the program to loopback for the
    /// self-test.
    ///
    /// # Errors
    /// When this kernel or this process cannot load or attach the program.
    pub(super) fn load(connections: usize, debug: bool) -> Result<Self, LoadError> {
        let bytes = Object::Splice.bytes()?;
        let filter_handle = FilterHandle::find().map_err(LoadError::from)?;
        sys::lift_locked_memory_limit();
        let connections = u32::try_from(connections).map_err(|_| {
            LoadError::Unsupported(format!("{connections} connections are too many"))
        })?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.map_max_entries(names::TUPLES, connections * 2);
        loader.map_max_entries(names::SPLICES, connections);
        let level = ProgramLog::level(debug);
        loader.override_global(names::LOG_LEVEL, &level, true);
        let mut object = loader.load(bytes).map_err(LoadError::from)?;
        let log = ProgramLog::take(&mut object, debug)?;
        let program: &mut SchedClassifier = program(&mut object, names::SPLICE)?;
        program.load().map_err(LoadError::from)?;
        // After the program was loaded, which needs the maps in the object.
        let splices = map_array(&mut object, names::SPLICES, connections as usize)?;
        let globals = map_array(&mut object, names::GLOBALS, 1)?;
        let tuples = take(&mut object, names::TUPLES)?;
        let endings = Mutex::new(take(&mut object, names::ENDINGS)?);
        Ok(Self {
            splices,
            globals,
            entries: Mutex::new(Entries { tuples, live: Live::new() }),
            endings,
            lingering: Mutex::default(),
            slots: Slots::new(connections),
            log,
            interfaces: Interfaces::new(object, filter_handle)?,
            grace_periods: GracePeriods::default(),
            ineligible: IneligibleCounts::default(),
            past: Mutex::default(),
        })
    }

    /// Takes a slot for a pair with these tuples. The program forwards no packets until the phase
    /// is set.
    ///
    /// # Errors
    /// When a peer is reached through an unsuitable interface, when there is no slot, or when the
    /// kernel has no memory.
    pub(super) fn enter(
        self: &Arc<Self>,
        tuples: PerSide<Tuple>,
        mut splice: Splice,
    ) -> Result<Slot, Ineligible> {
        for (side, interface) in self.peer_interfaces(&tuples) {
            let unreachable = Ineligible::Interface;
            let direction = &mut splice.directions[!side];
            direction.out_ifindex = interface.map_err(|_| unreachable)?.ok_or(unreachable)?;
            direction.reinject = self.interfaces.is_behind();
        }
        self.end_lingering(Instant::now());
        let (number, ending) = match self.slots.take() {
            Some(taken) => taken,
            None => {
                let oldest = lock(&self.lingering).pop_front();
                drop(oldest.ok_or(Ineligible::Room)?);
                self.slots.take().ok_or(Ineligible::Room)?
            }
        };
        let slot = Slot { kernel: Arc::clone(self), number, ending, tuples };
        slot.fill(splice);
        let mut entries = lock(&self.entries);
        entries.live.insert(number, tuples);
        self.publish_count(&entries);
        for side in Side::BOTH {
            let key = TupleKey(slot.arriving(side));
            let inserted = entries.tuples.insert(key, number * 2 + side as u32, 0);
            if let Err(error) = inserted {
                drop(entries);
                if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
                    let error = map_error(error);
                    warn!(%error, suppressed, "BPF map insert failed, connection is not spliced");
                }
                return Err(Ineligible::Room);
            }
        }
        drop(entries);
        Ok(slot)
    }

    /// The interface through which each peer is reached, after attaching the program to it. `None`
    /// if the program cannot be attached.
    fn peer_interfaces(&self, tuples: &PerSide<Tuple>) -> [(Side, io::Result<Option<u32>>); 2] {
        Side::BOTH.map(|side| {
            let Tuple { local, peer } = tuples[side];
            let interface = || {
                let interface = self.interfaces.routes().interface(local.ip(), peer.ip())?;
                Ok(self.interfaces.attach(interface)?.then_some(interface))
            };
            (side, interface())
        })
    }

    /// Removes the entries of a slot, and frees the slot.
    pub(super) fn leave(&self, slot: &Slot) {
        let mut entries = lock(&self.entries);
        entries.live.remove(&slot.number);
        self.publish_count(&entries);
        for side in Side::BOTH {
            let key = TupleKey(slot.arriving(side));
            // A newer connection may have the same addresses.
            if entries.tuples.get(&key, 0).ok() == Some(slot.number * 2 + side as u32) {
                let _ = entries.tuples.remove(&key);
            }
        }
        drop(entries);
        lock(&self.past).add(&slot.read());
        self.slots.give_back(slot.number);
    }

    /// Writes the number of connections with entries to the program's memory.
    fn publish_count(&self, entries: &Entries) {
        self.globals().entries.store_seq_cst(entries.live.len() as u64);
    }

    /// Keeps the entries of a connection that has ended for a while, because its last packets may
    /// be late or repeated. Between two peers on this host this happens only if an acknowledgement
    /// was clamped.
    pub(super) fn linger(&self, slot: Slot) {
        let splice = slot.read();
        let mut directions = splice.directions.iter().map(|(_, direction)| direction);
        if directions.any(|it| it.out_ifindex != LOOPBACK || it.clamped_acks != 0) {
            // Both peers have acknowledged everything. Every further packet is for the other peer,
            // and none for a local socket.
            Side::BOTH.into_iter().for_each(|side| slot.set_drained(side));
            if slot.advance(Phase::Joined, Phase::Lingering) {
                lock(&self.lingering).push_back((Instant::now() + LINGER, slot));
            }
        }
    }

    fn end_lingering(&self, now: Instant) {
        loop {
            let mut lingering = lock(&self.lingering);
            let Some((until, _)) = lingering.front() else { return };
            if *until > now {
                return;
            }
            let over = lingering.pop_front();
            drop(lingering);
            drop(over);
        }
    }

    /// Counts a pair that cannot be joined.
    pub(super) fn count_ineligible(&self, reason: Ineligible) {
        self.ineligible.count(reason);
    }

    /// Counts a pair that was joined.
    pub(super) fn count_joined(&self) {
        lock(&self.past).total += 1;
    }

    /// Removes all traces of the self-test.
    pub(super) fn clear(&self) {
        let lingering = mem::take(&mut *lock(&self.lingering));
        // Adds to the figures, which are reset next.
        drop(lingering);
        *lock(&self.past) = Figures::default();
        self.interfaces.detach_all();
        self.grace_periods.join_thread();
    }

    /// The figures of all connections so far.
    pub(crate) fn figures(&self) -> Figures {
        let live = self.live();
        let mut figures = lock(&self.past).clone();
        figures.refused = self.ineligible.read();
        for number in live {
            let splice = Splice::load_relaxed(self.words(number));
            figures.current += u64::from(splice.phase == Phase::Joined);
            figures.add(&splice);
        }
        figures
    }

    /// Runs the datapath's background work: wakes connections that are ending, removes lingering
    /// entries, follows route changes and forwards the program's log. Never returns.
    pub(crate) async fn handle_events(&self) -> Infallible {
        tokio::join!(self.wake(), self.check(), self.follow_routes(), self.log.follow()).0
    }

    async fn wake(&self) -> Infallible {
        let buffer = lock(&self.endings).as_fd().try_clone_to_owned();
        on_readable(buffer, || {
            let mut endings = lock(&self.endings);
            while let Some(event) = endings.next() {
                if let Ok(slot) = <[u8; 4]>::try_from(&event[..4]) {
                    self.wake_slot(u32::from_ne_bytes(slot));
                }
            }
        })
        .await
    }

    fn wake_slot(&self, number: u32) {
        self.slots.wake(number * 2);
        self.slots.wake(number * 2 + 1);
    }

    async fn check(&self) {
        loop {
            let is_any = !lock(&self.lingering).is_empty();
            sleep(if is_any { LINGER } else { CHECK_INTERVAL }).await;
            self.end_lingering(Instant::now());
            if self.globals().missed.as_atomic().swap(0, SeqCst) != 0 {
                self.live().into_iter().for_each(|number| self.wake_slot(number));
            }
        }
    }

    /// Slots that have entries.
    fn live(&self) -> Vec<u32> {
        lock(&self.entries).live.keys().copied().collect()
    }

    /// Sends packets through other interfaces when the routes have changed.
    async fn follow_routes(&self) {
        let opened = RouteChanges::open().map(|changes| {
            let descriptor = changes.as_fd().try_clone_to_owned();
            (changes, descriptor)
        });
        let (changes, descriptor) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                error!(%error, "cannot read route changes");
                return;
            }
        };
        let changed = Notify::new();
        let listen = on_readable(descriptor, || {
            changes.clear();
            changed.notify_one();
        });
        let act = async {
            loop {
                changed.notified().await;
                // Many changes arrive together.
                sleep(ROUTE_CHANGE_DELAY).await;
                self.reroute();
            }
        };
        tokio::join!(listen, act);
    }

    fn reroute(&self) {
        self.interfaces.forget_lost();
        let live: Vec<(u32, PerSide<Tuple>)> =
            lock(&self.entries).live.iter().map(|(&number, &tuples)| (number, tuples)).collect();
        for (number, tuples) in live {
            let interfaces = self.peer_interfaces(&tuples);
            let entries = lock(&self.entries);
            if entries.live.get(&number) != Some(&tuples) {
                continue;
            }
            for (side, interface) in interfaces {
                // A peer without a route now may have one later.
                if let Ok(Some(interface)) = interface {
                    let direction = &self.words(number).directions[!side];
                    direction.out_ifindex.store_seq_cst(interface);
                }
            }
        }
    }

    /// The interfaces that the program is attached to.
    #[cfg(test)]
    pub(super) fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    fn globals(&self) -> &Globals {
        global_words(&self.globals)
    }

    /// The words of the splice in a slot.
    pub(super) fn words(&self, number: u32) -> &SpliceWords {
        splice_words(&self.splices, number)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OffloadCounters for Kernel {
    fn name(&self) -> DatapathName {
        DatapathName::Splice
    }

    fn bytes(&self, slot: u32) -> u64 {
        let (words, side) = (self.words(slot / 2), Side::from_bit(slot));
        let direction = &words.directions[side];
        let snd_una = direction.side.sender.snd_una.load_seq_cst();
        let acknowledged = snd_una.saturating_sub(direction.counted_from.load_seq_cst());
        // The FIN occupies a number and is no byte. The program sets the bit before the FIN can be
        // acknowledged.
        let has_fin = words.endings.load_seq_cst() & ending::of(ending::FIN, side) != 0
            && direction.fin_end_seq.load_seq_cst() == snd_una as u32;
        acknowledged.saturating_sub(u64::from(has_fin))
    }

    fn is_moving(&self, slot: u32) -> bool {
        self.words(slot / 2).phase.load_seq_cst() == Phase::Joined
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}
