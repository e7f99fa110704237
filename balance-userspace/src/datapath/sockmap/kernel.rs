//! The loaded BPF object of the sockmap datapath, and all access to its program and maps.
//!
//! Invariants: no other file of the process accesses a map. The program and the maps disappear with
//! the process, because nothing is pinned.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, RingBuf, SockMap},
    programs::SkSkb,
};
use balance_ebpf::{names, sockmap::handover::UserWords as _};

use super::{
    btf,
    flows::{FlowRef, Flows},
    lease::SlotLease,
};
use crate::{
    datapath::{
        name::DatapathName,
        offload::{
            object::{LoadError, Object, map_array, map_error, on_readable, program, take},
            program_log::ProgramLog,
            slots::Slots,
        },
        pair::Pair,
        side::PerSide,
        traffic::OffloadCounters,
    },
    sys,
};

/// The most memory that a flow may have outstanding in the kernel, in bytes.
pub(super) const LIMIT: u32 = 2 << 20;

/// The send buffer of sockets on this datapath, in bytes as the kernel counts them: [`LIMIT`], and
/// the packets that arrive until the program checks again. User space enlarges the buffer if small
/// segments need more.
pub(super) const SEND_BUFFER: i32 = (LIMIT + (3 << 19)) as i32;

/// The kernel's side of the sockmap datapath.
pub(crate) struct Kernel {
    flows: Flows,
    pub(super) slots: Slots,
    maps: Mutex<Maps>,
    events: Mutex<RingBuf<MapData>>,
    log: ProgramLog,
    /// Keeps the program attached.
    _object: Ebpf,
}

struct Maps {
    targets: SockMap<MapData>,
    sources: SockMap<MapData>,
    cookies: HashMap<MapData, u64, u32>,
}

impl Kernel {
    /// Loads the object, with maps for `connections` connections, and attaches its program.
    pub(super) fn load(connections: usize, debug: bool) -> Result<Self, LoadError> {
        let object = Object::Sockmap.bytes()?;
        let offset = |of, field| {
            let missing = || {
                LoadError::Unsupported(format!("the kernel's type information has no {of}.{field}"))
            };
            btf::field_offset(of, field).ok_or_else(missing)
        };
        let offsets = [
            offset("tcp_sock", "bytes_acked")?,
            offset("tcp_sock", "write_seq")?,
            offset("tcp_sock", "snd_una")?,
            offset("tcp_sock", "copied_seq")?,
            offset("sock", "sk_wmem_queued")?,
        ];
        sys::lift_locked_memory_limit();
        let connections = u32::try_from(connections).map_err(|_| {
            LoadError::Unsupported(format!("{connections} connections are too many"))
        })?;
        let level = ProgramLog::level(debug);
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for map in [names::TARGETS, names::SOURCES, names::SLOTS, names::FLOWS] {
            loader.map_max_entries(map, connections * 2);
        }
        let mut object = loader
            .override_global(names::LIMIT, &LIMIT, true)
            .override_global(names::OFFSETS, &offsets, true)
            .override_global(names::LOG_LEVEL, &level, true)
            .load(object)
            .map_err(LoadError::from)?;
        let log = ProgramLog::take(&mut object, debug)?;
        let sources: SockMap<_> = take(&mut object, names::SOURCES)?;
        let program: &mut SkSkb = program(&mut object, names::VERDICT)?;
        program.load().map_err(LoadError::from)?;
        program.attach(sources.fd()).map_err(LoadError::from)?;
        let flows = Flows(map_array(&mut object, names::FLOWS, connections as usize * 2)?);
        Ok(Self {
            flows,
            slots: Slots::new(connections),
            maps: Mutex::new(Maps {
                targets: take(&mut object, names::TARGETS)?,
                sources,
                cookies: take(&mut object, names::SLOTS)?,
            }),
            events: Mutex::new(take(&mut object, names::EVENTS)?),
            log,
            _object: object,
        })
    }

    pub(super) fn flow(&self, slot: u32) -> FlowRef<'_> {
        self.flows.get(slot)
    }

    /// Inserts a connection into the maps: first both targets, then both sources, so that no packet
    /// is redirected to a socket that is not in the map. From then on the program passes the bytes
    /// to user space, until a flow is promoted. Returns for each direction whether the program is
    /// attached to its source.
    ///
    /// # Errors
    /// When a target cannot be inserted. The program then sees no bytes of the connection, and
    /// entries that were made disappear when the streams are closed.
    pub(super) fn insert(&self, pair: &Pair, lease: &SlotLease) -> io::Result<PerSide<bool>> {
        let slots = PerSide::from_fn(|side| lease.slot(side));
        for (_, &slot) in slots.iter() {
            self.flow(slot).reset();
        }
        let maps = &mut *self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        for (side, &slot) in slots.iter() {
            maps.cookies.insert(lease.cookies[side], slot, 0).map_err(map_error)?;
        }
        for (side, &slot) in slots.iter() {
            let target = pair.stream(!side).as_raw_fd();
            maps.targets.set(slot, &target, 0).map_err(map_error)?;
        }
        // The kernel accepts only established sockets (net/core/sock_map.c). If a source has sent
        // FIN already, user space reads the rest of its bytes.
        Ok(PerSide::from_fn(|side| {
            let source = &**pair.stream(side);
            let attached = maps.sources.set(slots[side], &source.as_raw_fd(), 0).is_ok();
            if attached {
                // Bytes that arrived before would stay in the receive queue until more arrive.
                // This call runs the program on them (net/ipv4/tcp.c, tcp_set_rcvlowat).
                let _ = sys::set_int(source, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1);
            } else {
                self.flow(slots[side]).retire();
            }
            attached
        }))
    }

    /// Removes a connection's cookies. Its sockets left the maps when they were closed.
    pub(super) fn remove_cookies(&self, lease: &SlotLease) {
        let maps = &mut *self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, cookie) in lease.cookies.iter() {
            let _ = maps.cookies.remove(cookie);
        }
    }

    /// Wakes the directions that the program hands back to user space. Never returns; at most one
    /// call runs at a time.
    pub(crate) async fn handle_events(&self) -> Infallible {
        let events =
            on_readable(self.lock_events().as_fd().try_clone_to_owned(), || self.wake_all());
        tokio::join!(events, self.log.follow()).0
    }

    fn wake_all(&self) {
        let mut events = self.lock_events();
        while let Some(event) = events.next() {
            if let Ok(slot) = <[u8; 4]>::try_from(&event[..4]) {
                self.slots.wake(u32::from_ne_bytes(slot));
            }
        }
    }

    fn lock_events(&self) -> std::sync::MutexGuard<'_, RingBuf<MapData>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OffloadCounters for Kernel {
    fn name(&self) -> DatapathName {
        DatapathName::Sockmap
    }

    fn bytes(&self, slot: u32) -> u64 {
        self.flow(slot).redirected()
    }

    fn is_moving(&self, slot: u32) -> bool {
        self.flow(slot).is_in_kernel()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sockmap::Kernel")
    }
}
