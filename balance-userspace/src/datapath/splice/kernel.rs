//! The loaded splice program: its one owner, through which all access to it and its maps goes.
//!
//! Invariant: with TCX (from 6.6 on) what is loaded and attached goes away with the process, as
//! nothing is pinned; the filter of an older kernel stays if the process is killed.

use std::{
    io,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, RingBuf},
    programs::{SchedClassifier, TcAttachType, tc},
};
use balance_ebpf::{
    names,
    splice::{Key, Side, Splice, ending, phase},
};

use crate::{
    datapath::{
        Name,
        mapped::Mapped,
        object::{Object, Refusal, map_array, map_error, on_readable, program, take},
        slots::{Slots, Wakers},
        traffic::Mover,
    },
    sys,
};

/// Addresses in the form of the map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Place(Key);

// SAFETY: `Key` is plain integers without padding.
unsafe impl aya::Pod for Place {}

/// The kernel's side of the splice datapath.
pub(crate) struct Kernel {
    splices: Mapped<Splice>,
    places: Mutex<HashMap<MapData, Place, u32>>,
    endings: Mutex<RingBuf<MapData>>,
    slots: Slots,
    /// Keeps the program attached.
    _object: Ebpf,
}

/// A slot in use: one connection.
pub(super) struct Slot {
    kernel: Arc<Kernel>,
    pub(super) number: u32,
    /// Told when something of the end was seen.
    pub(super) ending: Wakers,
    keys: [Key; 2],
}

impl Kernel {
    /// Loads the object with room for so many connections, and attaches it to loopback.
    pub(super) fn load(connections: usize) -> Result<Self, Refusal> {
        let bytes = Object::Splice.bytes()?;
        sys::lift_memlock();
        let connections = u32::try_from(connections)
            .map_err(|_| Refusal::Unfit(format!("{connections} connections are too many")))?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.map_max_entries(names::PLACES, connections * 2);
        loader.map_max_entries(names::SPLICES, connections);
        let mut object = loader.load(bytes).map_err(Refusal::from)?;
        let program: &mut SchedClassifier = program(&mut object, names::SPLICE)?;
        program.load().map_err(Refusal::from)?;
        // A kernel without TCX (before 6.6) needs a qdisc, which stays when we are gone: only
        // there, and only if nobody has made it.
        if program.attach(LOOPBACK, TcAttachType::Ingress).is_err() {
            let _ = tc::qdisc_add_clsact(LOOPBACK);
            program.attach(LOOPBACK, TcAttachType::Ingress).map_err(Refusal::from)?;
        }
        // Only now: the program is loaded with the maps that the object has.
        Ok(Self {
            splices: map_array(&mut object, names::SPLICES, connections as usize)?,
            places: Mutex::new(take(&mut object, names::PLACES)?),
            endings: Mutex::new(take(&mut object, names::ENDINGS)?),
            slots: Slots::new(connections),
            _object: object,
        })
    }

    /// Takes a slot for a connection whose packets arrive with these addresses; nothing happens to
    /// them until the phase is set.
    ///
    /// # Errors
    /// When there is no slot, or the kernel has no memory.
    pub(super) fn enter(self: &Arc<Self>, splice: Splice, keys: [Key; 2]) -> io::Result<Slot> {
        let (number, ending) =
            self.slots.take().ok_or_else(|| io::Error::other("all slots are taken"))?;
        let slot = Slot { kernel: Arc::clone(self), number, ending, keys };
        // SAFETY: no packet leads to the slot yet, and nobody else has it.
        unsafe { self.splices.get(number).write_volatile(splice) };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for (side, &key) in (0..).zip(&keys) {
            places.insert(Place(key), number * 2 + side, 0).map_err(map_error)?;
        }
        drop(places);
        Ok(slot)
    }

    /// Wakes the connections that the program tells the end of, for ever.
    pub(crate) async fn dispatch(&self) {
        let lock = || self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = lock().as_fd().try_clone_to_owned();
        on_readable(buffer, || {
            let mut endings = lock();
            while let Some(event) = endings.next() {
                if let Ok(slot) = <[u8; 4]>::try_from(&event[..4]) {
                    let number = u32::from_ne_bytes(slot);
                    self.slots.wake(number * 2);
                    self.slots.wake(number * 2 + 1);
                }
            }
        })
        .await;
    }

    fn at(&self, slot: u32) -> SpliceRef<'_> {
        SpliceRef { splice: self.splices.get(slot), _array: &self.splices }
    }
}

const LOOPBACK: &str = "lo";

impl Slot {
    /// Sets one of [`phase`].
    pub(super) fn set_phase(&self, phase: u32) {
        self.kernel.at(self.number).phase().store(phase, SeqCst);
    }

    /// Moves the cut-off of a side, and what the other side's socket will have written.
    pub(super) fn raise(&self, side: usize, cut: u32, written: u32) {
        let splice = self.kernel.at(self.number);
        splice.side(side, |s| &raw mut s.cut).store(cut, SeqCst);
        splice.side(1 - side, |s| &raw mut s.written).store(written, SeqCst);
    }

    /// Says where counting begins: at the cut-off, when packets begin to go through.
    pub(super) fn begin(&self, side: usize, cut: u32) {
        self.kernel.at(self.number).origin(side).store(cut, SeqCst);
    }

    /// Sets by how much the local socket has heard of room beyond the cut-off.
    pub(super) fn set_ahead(&self, side: usize, ahead: u32) {
        self.kernel.at(self.number).side(side, |s| &raw mut s.ahead).store(ahead, SeqCst);
    }

    /// Marks a side whose peer has acknowledged all that our socket has for it.
    pub(super) fn set_settled(&self, side: usize) {
        self.kernel.at(self.number).side(side, |s| &raw mut s.settled).store(1, SeqCst);
    }

    /// Whether the peer of a side has acknowledged all that our socket has for it.
    pub(super) fn is_settled(&self, side: usize) -> bool {
        self.kernel.at(self.number).side(side, |s| &raw mut s.settled).load(SeqCst) != 0
    }

    /// What has been seen of the end: bits of [`ending`].
    pub(super) fn endings(&self) -> u64 {
        self.kernel.at(self.number).ending().load(SeqCst)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_phase(phase::LOCAL);
        let mut places = self.kernel.places.lock().unwrap_or_else(PoisonError::into_inner);
        for &key in &self.keys {
            let _ = places.remove(&Place(key));
        }
        drop(places);
        self.kernel.slots.give_back(self.number);
    }
}

impl Mover for Kernel {
    fn name(&self) -> Name {
        Name::Splice
    }

    fn moved(&self, way: u32) -> u64 {
        let (splice, side) = (self.at(way / 2), way as usize % 2);
        let progress = splice.progress(side).load(SeqCst);
        // A FIN takes a number and is no byte.
        let fin = splice.ending().load(SeqCst) & (ending::FIN << side) != 0;
        progress.saturating_sub(u64::from(fin))
    }

    fn is_moving(&self, way: u32) -> bool {
        self.at(way / 2).phase().load(SeqCst) == phase::JOINED
    }
}

/// One splice in shared memory: the words that both sides change, each by itself.
struct SpliceRef<'a> {
    splice: NonNull<Splice>,
    _array: &'a Mapped<Splice>,
}

impl<'a> SpliceRef<'a> {
    fn phase(&self) -> &'a AtomicU32 {
        // SAFETY: an aligned word within the mapping, as all of these.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.splice.as_ptr()).phase) }
    }

    fn ending(&self) -> &'a AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.splice.as_ptr()).ending) }
    }

    fn side(&self, side: usize, field: impl Fn(&mut Side) -> *mut u32) -> &'a AtomicU32 {
        // SAFETY: as above; an index beyond the sides panics. The reference is to find the field
        // only.
        unsafe { AtomicU32::from_ptr(field(&mut (*self.splice.as_ptr()).ways[side].side)) }
    }

    fn origin(&self, side: usize) -> &'a AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.splice.as_ptr()).ways[side].origin) }
    }

    fn progress(&self, side: usize) -> &'a AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.splice.as_ptr()).ways[side].progress) }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}
