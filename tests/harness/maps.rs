//! Reads and fills the BPF maps of a running program from outside.
//!
//! Invariant: every inserted entry is removed again, and its key is one that the program never
//! looks up.

use std::{fs, io};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, MapInfo},
};
use nix::errno::Errno;

use crate::Datapath;

/// Number of entries in the map in which a datapath looks up connections: two for each offloaded
/// connection.
pub fn kernel_entries(process: u32, datapath: Datapath) -> Result<usize, String> {
    match datapath {
        Datapath::Relay => Ok(0),
        Datapath::Sockmap | Datapath::Handover => entries::<u64>(map(process, "SLOTS")?),
        Datapath::Splice => entries::<[u8; 40]>(map(process, "TUPLES")?),
    }
}

/// Filler entries in that map, as many as fit; removed when dropped.
#[derive(Debug)]
pub struct FillerEntries(Filled);

#[derive(Debug)]
enum Filled {
    Slots(HashMap<MapData, u64, u32>, u32),
    Places(HashMap<MapData, [u8; 40], u32>, u32),
}

impl FillerEntries {
    /// Fills the map in which a kernel datapath of `process` looks up connections.
    ///
    /// # Errors
    /// When the process has no such map.
    pub fn fill(process: u32, datapath: Datapath) -> Result<Self, String> {
        Ok(Self(match datapath {
            Datapath::Relay => return Err("the relay has no maps".into()),
            Datapath::Sockmap | Datapath::Handover => {
                let mut slots = open(map(process, "SLOTS")?)?;
                let count = fill(&mut slots, slot)?;
                Filled::Slots(slots, count)
            }
            Datapath::Splice => {
                let mut places = open(map(process, "TUPLES")?)?;
                let count = fill(&mut places, place)?;
                Filled::Places(places, count)
            }
        }))
    }

    /// Removes one filler entry.
    pub fn take_one_out(&mut self) {
        match &mut self.0 {
            Filled::Slots(slots, count) => take_one_out(slots, count, slot),
            Filled::Places(places, count) => take_one_out(places, count, place),
        }
    }

    /// Number of filler entries.
    pub fn count(&self) -> u32 {
        match self.0 {
            Filled::Slots(_, count) | Filled::Places(_, count) => count,
        }
    }
}

impl Drop for FillerEntries {
    fn drop(&mut self) {
        while self.count() > 0 {
            self.take_one_out();
        }
    }
}

/// A socket cookie that no socket has.
fn slot(number: u32) -> u64 {
    u64::MAX - u64::from(number)
}

/// Addresses of no IP version.
fn place(number: u32) -> [u8; 40] {
    let mut place = [0xff; 40];
    place[..4].copy_from_slice(&number.to_ne_bytes());
    place
}

fn fill<K: Pod>(map: &mut HashMap<MapData, K, u32>, key: impl Fn(u32) -> K) -> Result<u32, String> {
    let mut count = 0;
    loop {
        match map.insert(key(count), 0, 0) {
            Ok(()) => count += 1,
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(Errno::E2BIG as i32) =>
            {
                return Ok(count);
            }
            Err(error) => return Err(format!("filling a map: {error}")),
        }
    }
}

fn take_one_out<K: Pod>(
    map: &mut HashMap<MapData, K, u32>,
    count: &mut u32,
    key: impl Fn(u32) -> K,
) {
    *count -= 1;
    map.remove(&key(*count)).expect("a filler entry");
}

fn open<K: Pod>(id: u32) -> Result<HashMap<MapData, K, u32>, String> {
    let map = MapData::from_id(id)
        .and_then(Map::from_map_data)
        .map_err(|error| format!("opening map {id}: {error}"))?;
    HashMap::try_from(map).map_err(|error| format!("map {id} is not what it should be: {error}"))
}

fn entries<K: Pod>(id: u32) -> Result<usize, String> {
    let map = open::<K>(id)?;
    let mut entries = 0;
    for key in map.keys() {
        key.map_err(|error| format!("reading map {id}: {error}"))?;
        entries += 1;
    }
    Ok(entries)
}

fn map(process: u32, wanted: &str) -> Result<u32, String> {
    let folder = format!("/proc/{process}/fdinfo");
    let list = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut names = Vec::new();
    for entry in list {
        let path = entry.map_err(|error| format!("{folder}: {error}"))?.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // The process may have closed the descriptor after the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else {
            continue;
        };
        let id = id.trim().parse().map_err(|_| format!("map_id {id}"))?;
        let info = MapInfo::from_id(id).map_err(|error| format!("map {id}: {error}"))?;
        let name = String::from_utf8_lossy(info.name()).into_owned();
        if name == wanted {
            return Ok(id);
        }
        names.push(name);
    }
    Err(format!("no {wanted} among the maps of {process}: {names:?}"))
}
