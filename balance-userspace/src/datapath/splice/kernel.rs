//! The loaded splice program: its one owner, through which all access to it and its maps goes.
//!
//! Invariant: of two connections with the same addresses the newer one has the packets.

use std::{
    collections::{HashMap as Live, VecDeque},
    convert::Infallible,
    io, mem,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    maps::{HashMap, MapData, RingBuf},
    programs::SchedClassifier,
};
use balance_ebpf::{
    names,
    splice::{Common, Key, LOOPBACK, Splice, ending, phase},
};
use tokio::{sync::Notify, time::sleep};
use tracing::{error, warn};

use super::{
    attach::Devices,
    ineligible::{Met, Obstacle},
    legacy_tc::Mark,
    rcu::Grace,
    routes::Changes,
    slot::Slot,
    tuple::Tuple,
    words::Words,
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
        traffic::OffloadCounters,
    },
    sys,
    throttle::Throttle,
};

/// Addresses in the form of the map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Addresses(Key);

// SAFETY: `Key` is plain integers without padding.
unsafe impl aya::Pod for Addresses {}

/// The kernel's side of the splice datapath.
pub(crate) struct Kernel {
    pub(super) splices: Mapped<Splice>,
    common: Mapped<Common>,
    entries: Mutex<Entries>,
    endings: Mutex<RingBuf<MapData>>,
    lingering: Mutex<VecDeque<(Instant, Slot)>>,
    slots: Slots,
    log: ProgramLog,
    devices: Devices,
    pub(super) grace: Grace,
    met: Met,
    /// Without what is still going on.
    past: Mutex<Figures>,
}

/// Whose packets go where.
struct Entries {
    places: HashMap<MapData, Addresses, u32>,
    /// By slot.
    live: Live<u32, [Tuple; 2]>,
}

/// What the datapath has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Connections that are spliced now.
    pub(crate) current: u64,
    /// Connections that have been so far.
    pub(crate) total: u64,
    /// How many were not, by reason.
    pub(crate) refused: Vec<(String, u64)>,
    /// Packets that went through.
    pub(crate) packets: u64,
    /// Blocks of selective acknowledgements that were changed.
    pub(crate) sacks: u64,
    /// Acknowledgements that were held back to what our sockets say.
    pub(crate) clamped: u64,
    /// Packets that went nowhere.
    pub(crate) dropped: u64,
}

impl Figures {
    fn add(&mut self, splice: &Splice) {
        for way in &splice.ways {
            self.packets += way.packets;
            self.sacks += u64::from(way.sacks);
            self.clamped += u64::from(way.clamped);
            self.dropped += u64::from(way.dropped);
        }
    }
}

/// For how long late packets of a connection that has ended still find their way: a peer whose
/// last packet was lost sends it again after 200 ms, then after twice as long, and so on.
const LINGERING: Duration = Duration::from_secs(3);

/// How often it is looked after what nobody has told.
const LOOK: Duration = Duration::from_secs(10);

/// How long changes of routes may go on before they are looked at together.
const CHANGING: Duration = Duration::from_millis(50);

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

impl Kernel {
    /// Loads the object with room for so many connections, and attaches it for the self-test.
    pub(super) fn load(connections: usize, debug: bool) -> Result<Self, LoadError> {
        let bytes = Object::Splice.bytes()?;
        let mark = Mark::find().map_err(LoadError::from)?;
        sys::lift_locked_memory_limit();
        let connections = u32::try_from(connections).map_err(|_| {
            LoadError::Unsupported(format!("{connections} connections are too many"))
        })?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.map_max_entries(names::PLACES, connections * 2);
        loader.map_max_entries(names::SPLICES, connections);
        let level = ProgramLog::level(debug);
        loader.override_global(names::LOG_LEVEL, &level, true);
        let mut object = loader.load(bytes).map_err(LoadError::from)?;
        let log = ProgramLog::take(&mut object, debug)?;
        let program: &mut SchedClassifier = program(&mut object, names::SPLICE)?;
        program.load().map_err(LoadError::from)?;
        // Only now: the program is loaded with the maps that the object has.
        let splices = map_array(&mut object, names::SPLICES, connections as usize)?;
        let common = map_array(&mut object, names::COMMON, 1)?;
        let places = take(&mut object, names::PLACES)?;
        let endings = Mutex::new(take(&mut object, names::ENDINGS)?);
        Ok(Self {
            splices,
            common,
            entries: Mutex::new(Entries { places, live: Live::new() }),
            endings,
            lingering: Mutex::default(),
            slots: Slots::new(connections),
            log,
            devices: Devices::new(object, mark)?,
            grace: Grace::default(),
            met: Met::default(),
            past: Mutex::default(),
        })
    }

    /// Takes a slot for a connection on these paths; nothing happens to its packets until the
    /// phase is set.
    ///
    /// # Errors
    /// When a peer cannot be reached in a way that suits, when there is no slot, or when the kernel
    /// has no memory.
    pub(super) fn enter(
        self: &Arc<Self>,
        paths: [Tuple; 2],
        mut splice: Splice,
    ) -> Result<Slot, Obstacle> {
        for (i, out) in [1, 0].into_iter().zip(self.ways_out(&paths)) {
            splice.ways[i].out = out.map_err(|_| Obstacle::Device)?.ok_or(Obstacle::Device)?;
            splice.ways[i].again = u32::from(self.devices.is_behind());
        }
        self.end_lingering(Instant::now());
        let (number, ending) = match self.slots.take() {
            Some(taken) => taken,
            None => {
                let oldest = lock(&self.lingering).pop_front();
                drop(oldest.ok_or(Obstacle::Room)?);
                self.slots.take().ok_or(Obstacle::Room)?
            }
        };
        let slot = Slot { kernel: Arc::clone(self), number, ending, paths };
        slot.fill(splice);
        let mut entries = lock(&self.entries);
        entries.live.insert(number, paths);
        self.tell_entries(&entries);
        for side in 0..2 {
            let inserted =
                entries.places.insert(Addresses(slot.key(side)), number * 2 + side as u32, 0);
            if let Err(error) = inserted {
                drop(entries);
                if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
                    let error = map_error(error);
                    warn!(%error, suppressed, "BPF map insert failed, connection is not spliced");
                }
                return Err(Obstacle::Room);
            }
        }
        drop(entries);
        Ok(slot)
    }

    /// The interfaces through which the two peers are reached, with the program on each; `None`
    /// where it cannot be.
    fn ways_out(&self, paths: &[Tuple; 2]) -> [io::Result<Option<u32>>; 2] {
        paths.map(|path| {
            let out = self.devices.routes().interface(path.own.ip(), path.peer.ip())?;
            Ok(self.devices.cover(out)?.then_some(out))
        })
    }

    /// Takes the entries of a slot away, and lets it be used anew.
    pub(super) fn leave(&self, slot: &Slot) {
        let mut entries = lock(&self.entries);
        entries.live.remove(&slot.number);
        self.tell_entries(&entries);
        for side in 0..2 {
            let key = Addresses(slot.key(side));
            // A newer connection may have come to the same addresses.
            if entries.places.get(&key, 0).ok() == Some(slot.number * 2 + side as u32) {
                let _ = entries.places.remove(&key);
            }
        }
        drop(entries);
        lock(&self.past).add(&slot.read());
        self.slots.give_back(slot.number);
    }

    /// Tells the program whether there is anything to look for.
    fn tell_entries(&self, entries: &Entries) {
        self.entries_word().store(entries.live.len() as u64, SeqCst);
    }

    /// Keeps the entries of a connection that has ended for a while: its last packets may be
    /// late, or come again. On this host nothing is, unless a peer was told of less than the other
    /// one has acknowledged.
    pub(super) fn linger(&self, slot: Slot) {
        if slot.read().ways.iter().any(|way| way.out != LOOPBACK || way.clamped != 0) {
            // Each has acknowledged all there was; what comes is for the other, and no socket of ours.
            slot.set_settled(0);
            slot.set_settled(1);
            if slot.advance(phase::JOINED, phase::LINGERING) {
                lock(&self.lingering).push_back((Instant::now() + LINGERING, slot));
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

    /// Counts a connection that was not joined.
    pub(super) fn refuse(&self, obstacle: Obstacle) {
        self.met.count(obstacle);
    }

    /// Counts one that was.
    pub(super) fn joined(&self) {
        lock(&self.past).total += 1;
    }

    /// Leaves everything as it was before the self-test.
    pub(super) fn clear(&self) {
        let lingering = mem::take(&mut *lock(&self.lingering));
        // Which counts it.
        drop(lingering);
        *lock(&self.past) = Figures::default();
        self.devices.let_go();
        self.grace.rest();
    }

    /// What has been done so far.
    pub(crate) fn figures(&self) -> Figures {
        let live = self.live();
        let mut figures = lock(&self.past).clone();
        figures.refused = self.met.read();
        for number in live {
            let splice = self.words(number).read();
            figures.current += u64::from(splice.phase == phase::JOINED);
            figures.add(&splice);
        }
        figures
    }

    /// Does what nobody else does, for ever: wakes the connections that the program tells the end
    /// of, lets entries go, and follows the routes.
    pub(crate) async fn handle_events(&self) -> Infallible {
        tokio::join!(self.wake(), self.look(), self.follow_routes(), self.log.follow()).0
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

    async fn look(&self) {
        loop {
            let is_any = !lock(&self.lingering).is_empty();
            sleep(if is_any { LINGERING } else { LOOK }).await;
            self.end_lingering(Instant::now());
            if self.missed_word().swap(0, SeqCst) != 0 {
                self.live().into_iter().for_each(|number| self.wake_slot(number));
            }
        }
    }

    /// Slots that have entries.
    fn live(&self) -> Vec<u32> {
        lock(&self.entries).live.keys().copied().collect()
    }

    /// Sends packets another way when the routes have changed.
    async fn follow_routes(&self) {
        let opened = Changes::open().map(|changes| {
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
                // They come in numbers.
                sleep(CHANGING).await;
                self.reroute();
            }
        };
        tokio::join!(listen, act);
    }

    fn reroute(&self) {
        self.devices.forget_lost();
        let live: Vec<(u32, [Tuple; 2])> =
            lock(&self.entries).live.iter().map(|(&number, &paths)| (number, paths)).collect();
        for (number, paths) in live {
            let ways = self.ways_out(&paths);
            let entries = lock(&self.entries);
            if entries.live.get(&number) != Some(&paths) {
                continue;
            }
            for (i, out) in [1, 0].into_iter().zip(ways) {
                // Where there is no way now, there may be one later.
                if let Ok(Some(out)) = out {
                    self.words(number).out(i).store(out, SeqCst);
                }
            }
        }
    }

    /// The interfaces that the program is attached to.
    #[cfg(test)]
    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    fn entries_word(&self) -> &AtomicU64 {
        // SAFETY: an aligned word within the mapping, which lives as long as we; the program only
        // reads it.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.common.get(0).as_ptr()).entries) }
    }

    fn missed_word(&self) -> &AtomicU64 {
        // SAFETY: as above; the program writes it as a whole.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.common.get(0).as_ptr()).missed) }
    }

    pub(super) fn words(&self, number: u32) -> Words<'_> {
        Words::of(&self.splices, number)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OffloadCounters for Kernel {
    fn name(&self) -> DatapathName {
        DatapathName::Splice
    }

    fn bytes(&self, way: u32) -> u64 {
        let (words, side) = (self.words(way / 2), way as usize % 2);
        let (acknowledged, acked) = words.acknowledged(side);
        // The end takes a number and is no byte. It is noted before it can be acknowledged.
        let has_end = words.ending().load(SeqCst) & (ending::FIN << side) != 0
            && words.fin(side).load(SeqCst) == acked;
        acknowledged.saturating_sub(u64::from(has_end))
    }

    fn is_moving(&self, way: u32) -> bool {
        self.words(way / 2).phase().load(SeqCst) == phase::JOINED
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}
